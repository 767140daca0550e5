"""The layers of a `Sequential`: what each is, and which arrays it owns.

A layer is a description until a `Sequential` takes it and binds its arrays, which are views of the network's memory. A copy of
a layer is a description again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastnn import _check, initialisers
from fastnn.activation import KINDS

Array = np.ndarray
Init = str | Callable[..., Any] | np.ndarray

#: The initialisers that need nothing but a shape.
INITIALISERS = (
    "xavier_uniform", "xavier_normal", "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform",
    "lecun_normal", "fan_in_uniform", "orthogonal", "sparse", "zeros",
)


class Owner:
    """Whose a layer is: one for all layers of a network, so that they are all free again when its construction fails."""

    def __init__(self) -> None:
        self.keeps = True


class Layer:
    """What the layers have in common. Not for use by itself.

    Attributes
    ----------
    parameters, statistics : dict of str to ndarray
        The arrays by their names in `Sequential.state_dict`; empty until a `Sequential` binds them.
    """

    def __init__(self) -> None:
        self.parameters: dict[str, Array] = {}
        self.statistics: dict[str, Array] = {}
        self.owner: Owner | None = None

    @property
    def bound(self) -> bool:
        """Whether it belongs to a network."""
        return self.owner is not None and self.owner.keeps

    def __getstate__(self) -> dict[str, Any]:
        """What is copied or pickled is the description, free for a network."""
        return self.__dict__ | {"parameters": {}, "statistics": {}, "owner": None}

    def config(self) -> dict[str, Any]:
        """What `layer_from_config` makes the same layer from: a dict of JSON's values."""
        return {"layer": type(self).__name__} | {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def width(self, n_in: int | None, name: str) -> int | None:
        """The number of features that come out when `n_in` go in; None is any. ValueError naming `name` if they cannot."""
        return n_in

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {}

    def statistic_shapes(self) -> dict[str, tuple[int, ...]]:
        return {}

    def bind(self, parameters: dict[str, Array], statistics: dict[str, Array], dtype: np.dtype[Any], owner: Owner) -> None:
        self.parameters, self.statistics, self.owner = parameters, statistics, owner

    def release(self) -> None:
        """Be a description again."""
        self.parameters, self.statistics = {}, {}

    def initialise(self, rng: np.random.Generator) -> None:
        """Fill the bound arrays with what they start from."""


def _array_property(kind: str, name: str, doc: str) -> Any:
    """An attribute that reads the bound array `name`, and writes into it."""

    def get(self: Layer) -> Array | None:
        return getattr(self, kind).get(name)

    def set(self: Layer, value: Any) -> None:
        array = getattr(self, kind).get(name)
        array = _check.bound(array, name)
        array[...] = _check.array_of_shape(value, name, array.shape)

    return property(get, set, doc=doc)


class Dense(Layer):
    """A fully connected layer, ``x @ weight + bias``.

    Parameters
    ----------
    in_features, out_features : int
        At least 1.
    bias : bool
        False in front of a `BatchNorm`, whose mean would swallow it.
    init : str, callable or ndarray
        How `weight` starts: the name of a function in `fastnn.init` that needs only a shape, a callable
        ``init(shape, *, rng, dtype)`` such as ``functools.partial(fastnn.init.normal, std=0.01)``, or an array
        (in_features, out_features). The bias starts at zero.

    Attributes
    ----------
    weight : ndarray (in_features, out_features), dtype of the network
    bias : ndarray (out_features,), dtype of the network, or None
        Assigning writes into the network's memory.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, init: Init = "xavier_uniform") -> None:
        super().__init__()
        self.in_features = _check.integer(in_features, "in_features", least=1)
        self.out_features = _check.integer(out_features, "out_features", least=1)
        self.has_bias = _check.flag(bias, "bias")
        init = _check.ndarray_of(init, "init")
        if isinstance(init, str):
            _check.choice(init, "init", INITIALISERS)
        elif isinstance(init, np.ndarray):
            _check.array_of_shape(init, "init", (self.in_features, self.out_features))
        elif not callable(init):
            raise _check.wrong_kind(init, "init", "a name in fastnn.init, a callable or an array")
        self.init = init

    weight = _array_property("parameters", "weight", "The weights (in_features, out_features), the network's own memory.")
    bias = _array_property("parameters", "bias", "The biases (out_features,), the network's own memory; None without.")

    def config(self) -> dict[str, Any]:
        # a callable or an array, which is not among JSON's values, has done its work
        return super().config() | {"bias": self.has_bias, "init": self.init if isinstance(self.init, str) else None}

    def __repr__(self) -> str:
        return f"Dense({self.in_features}, {self.out_features}{'' if self.has_bias else ', bias=False'})"

    def width(self, n_in: int | None, name: str) -> int:
        _check.connects(self.in_features, "in_features", n_in, name)
        return self.out_features

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.in_features, self.out_features)}
        return shapes | {"bias": (self.out_features,)} if self.has_bias else shapes

    def initialise(self, rng: np.random.Generator) -> None:
        shape = (self.in_features, self.out_features)
        weight = self.parameters["weight"]
        if "bias" in self.parameters:
            self.parameters["bias"].fill(0)
        if isinstance(self.init, np.ndarray):
            weight[...] = self.init
        else:
            function = getattr(initialisers, self.init) if isinstance(self.init, str) else self.init
            weight[...] = _check.array_of_shape(function(shape, rng=rng, dtype=weight.dtype), "init", shape)


class BatchNorm(Layer):
    """Batch normalisation over the rows: by the batch's statistics in training, by the running ones in evaluation.

    Ioffe & Szegedy (2015); the formulas are those of `batchnorm_forward` and `batchnorm_inference`.

    Parameters
    ----------
    num_features : int
        At least 1.
    eps : float
        > 0, inside the root.
    momentum : float
        The weight of the **new** batch in the running statistics, in [0, 1], as in PyTorch. Keras and flax give the weight of
        the old value, one minus it: `keras` and `flax` make the layer of such numbers.
    virtual_batch_size : int, optional
        At least 2. In training, normalise the rows of a batch in groups of so many ("ghost batches"), each by statistics of
        its own: Hoffer et al. (2017, "Train longer, generalize better", algorithm 1). The groups are consecutive rows; what
        fills no group belongs to the last one, and a batch of fewer rows is one group. The running statistics move once for
        each group, in the order of the rows, as in TabNet (Arik & Pfister 2019): with many groups to a batch they forget
        faster.
    running_var_ddof : {1, 0}
        What the running variance is made of: 1 takes the unbiased variance of a batch (or group) of m rows, m / (m - 1) times
        the biased one, as PyTorch and Ioffe & Szegedy (2015) do; 0 takes the biased one, as Keras and flax do. A batch is
        always normalised by the biased one.

    Attributes
    ----------
    gamma, beta : ndarray (num_features,), dtype of the network
        Scale and shift; start at 1 and 0.
    running_mean, running_var : ndarray (num_features,), dtype of the network
        Start at 0 and 1.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.

    Notes
    -----
    docs/batch-norm.md has the conventions of PyTorch, Keras, flax and the paper side by side.
    """

    def __init__(
        self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1, virtual_batch_size: int | None = None,
        running_var_ddof: int = 1,
    ) -> None:
        super().__init__()
        self.num_features = _check.integer(num_features, "num_features", least=1)
        self.eps = _check.positive(eps, "eps")
        self.momentum = _check.fraction(momentum, "momentum")
        self.virtual_batch_size = (
            None if virtual_batch_size is None else _check.integer(virtual_batch_size, "virtual_batch_size", least=2))
        self.running_var_ddof = _check.zero_or_one(running_var_ddof, "running_var_ddof")

    @classmethod
    def keras(
        cls, num_features: int, *, eps: float = 1e-3, momentum: float = 0.99, virtual_batch_size: int | None = None,
    ) -> BatchNorm:
        """The layer that does as ``keras.layers.BatchNormalization`` of Keras 3 does with these arguments.

        Here `momentum` weighs the **old** value, as it does there, and the running variance is the biased one. Otherwise
        arguments and errors are those of `BatchNorm`.

        Returns
        -------
        BatchNorm
        """
        momentum = _check.fraction(momentum, "momentum")
        return cls(num_features, eps=eps, momentum=1 - momentum, virtual_batch_size=virtual_batch_size, running_var_ddof=0)

    @classmethod
    def flax(
        cls, num_features: int, *, eps: float = 1e-5, momentum: float = 0.99, virtual_batch_size: int | None = None,
    ) -> BatchNorm:
        """The layer that does as ``flax.linen.BatchNorm`` does with these arguments.

        As for `keras`, `momentum` weighs the **old** value. Otherwise arguments and errors are those of `BatchNorm`.

        Returns
        -------
        BatchNorm
        """
        return cls.keras(num_features, eps=eps, momentum=momentum, virtual_batch_size=virtual_batch_size)

    @staticmethod
    def convert_running_var(running_var: Array, batch_size: int, *, from_ddof: int, to_ddof: int) -> Array:
        """Running variances by one convention as a new array of those by the other.

        Parameters
        ----------
        running_var : ndarray (D,) of float32 or float64
            Collected over batches of so many rows.
        batch_size : int
            At least 2. With ghost batches the rows of one of these. It is exact where all batches were equally long, and where
            the first value, a 1 that was no batch's, has been forgotten.
        from_ddof, to_ddof : {0, 1}
            As ``running_var_ddof``.

        Returns
        -------
        ndarray (D,), dtype of `running_var`
            ``running_var`` times m / (m - 1) from 0 to 1, times (m - 1) / m from 1 to 0; in float64.

        Raises
        ------
        TypeError, ValueError
            Naming the argument.
        """
        running_var = _check.array(running_var, "running_var")
        _check.non_negative_entries(running_var, "running_var")
        m = _check.integer(batch_size, "batch_size", least=2)
        given, wanted = _check.zero_or_one(from_ddof, "from_ddof"), _check.zero_or_one(to_ddof, "to_ddof")
        # both are the sum of squares over m - ddof
        return (running_var * np.float64((m - given) / (m - wanted))).astype(running_var.dtype)

    def groups(self, n: int) -> list[tuple[int, int]]:
        """The first row, and the one behind the last, of each group that training normalises in a batch of `n` rows."""
        size = self.virtual_batch_size or n
        starts = [*range(0, n - size + 1, size)] or [0]
        return [*zip(starts, [*starts[1:], n], strict=True)]

    gamma = _array_property("parameters", "gamma", "The scale (num_features,), the network's own memory.")
    beta = _array_property("parameters", "beta", "The shift (num_features,), the network's own memory.")
    running_mean = _array_property("statistics", "running_mean", "The mean in evaluation (num_features,), the network's own.")
    running_var = _array_property("statistics", "running_var", "The variance in evaluation (num_features,), the network's own.")

    def __repr__(self) -> str:
        groups = "" if self.virtual_batch_size is None else f", virtual_batch_size={self.virtual_batch_size}"
        return f"BatchNorm({self.num_features}{groups}{'' if self.running_var_ddof else ', running_var_ddof=0'})"

    def width(self, n_in: int | None, name: str) -> int:
        _check.connects(self.num_features, "num_features", n_in, name)
        return self.num_features

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"gamma": (self.num_features,), "beta": (self.num_features,)}

    def statistic_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"running_mean": (self.num_features,), "running_var": (self.num_features,)}

    def bind(self, parameters: dict[str, Array], statistics: dict[str, Array], dtype: np.dtype[Any], owner: Owner) -> None:
        _check.batchnorm_eps(self.eps, dtype)
        super().bind(parameters, statistics, dtype, owner)

    def initialise(self, rng: np.random.Generator) -> None:
        self.parameters["gamma"].fill(1)
        self.parameters["beta"].fill(0)
        self.statistics["running_mean"].fill(0)
        self.statistics["running_var"].fill(1)


class Activation(Layer):
    """An element-wise activation, `activation_forward`.

    Parameters
    ----------
    kind : str
        As for `activation_forward`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = _check.choice(kind, "kind", KINDS)

    def __repr__(self) -> str:
        return f"Activation({self.kind!r})"


class _Named(Activation):
    """An activation with a class of its own."""

    KIND = ""

    def __init__(self) -> None:
        super().__init__(self.KIND)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class ReLU(_Named):
    """``max(x, 0)``; see `activation_forward`."""

    KIND = "relu"


class LeakyReLU(_Named):
    """``x if x > 0 else 0.01 x``; see `activation_forward`."""

    KIND = "leaky_relu"


class Tanh(_Named):
    """``tanh(x)``; see `activation_forward`."""

    KIND = "tanh"


class Sigmoid(_Named):
    """``1 / (1 + exp(-x))``; see `activation_forward`."""

    KIND = "sigmoid"


class Softsign(_Named):
    """``x / (1 + abs(x))``; see `activation_forward`."""

    KIND = "softsign"


class Softplus(_Named):
    """``log(1 + exp(x))``; see `activation_forward`."""

    KIND = "softplus"


class ELU(_Named):
    """``x if x > 0 else exp(x) - 1``; see `activation_forward`."""

    KIND = "elu"


class Dropout(Layer):
    """In training, sets each element to zero with probability `p` and scales the others by ``1 / (1 - p)``.

    Srivastava et al. (2014), in the inverted form: evaluation changes nothing. The masks come from a counter-based
    generator, whose input is the network's seed, the step, and the place of an element.

    Parameters
    ----------
    p : float
        In [0, 1).

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = _check.proper_fraction(p, "p")

    def __repr__(self) -> str:
        return f"Dropout({self.p})"


LAYERS: dict[str, type[Layer]] = {
    kind.__name__: kind for kind in (
        Dense, BatchNorm, Activation, ReLU, LeakyReLU, Tanh, Sigmoid, Softsign, Softplus, ELU, Dropout)}


def layer_from_config(config: Mapping[str, Any]) -> Layer:
    """The layer that `Layer.config` described. What it does not mention is as the layer's constructor has it.

    Raises
    ------
    TypeError, ValueError
        If it describes none.
    """
    kind, options = _check.described(config, "layer", LAYERS)
    if options.get("init", "") is None:
        options["init"] = unknown_init
    return kind(**options)


def unknown_init(shape: tuple[int, int], *, rng: np.random.Generator, dtype: Any) -> Array:
    """The `init` of a layer from a file, where it was a callable or an array."""
    raise _check.unknown_init()


def connected(layers: Sequence[Layer]) -> tuple[tuple[Layer, ...], int, int]:
    """The layers as a tuple, n_in and n_out, if each layer is one, free, and takes what the one before gives."""
    _check.instance(layers, "layers", list | tuple, "a list of layers")
    width: int | None = None
    n_in: int | None = None
    seen: set[int] = set()
    for i, layer in enumerate(layers):
        _check.instance(layer, f"layers[{i}]", Layer, "a layer such as Dense")
        if layer.bound or id(layer) in seen:
            raise _check.taken(layer, f"layers[{i}]")
        seen.add(id(layer))
        if n_in is None:
            n_in = layer.in_features if isinstance(layer, Dense) else layer.width(None, "")
        width = layer.width(width, f"layers[{i}]")
    if not any(isinstance(layer, Dense) for layer in layers):
        raise _check.no_dense()
    assert n_in is not None and width is not None
    return tuple(layers), n_in, width
