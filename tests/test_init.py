"""The initialisers: distribution, exact bounds, the random stream, and what each refuses.

Statistical bands are 5 standard errors wide around the theory, at fixed seeds.
"""

import math

import numpy as np
import pytest

from fastnn import init

FAN_IN, FAN_OUT = SHAPE = (300, 170)
KINDS = ("identity", "relu", "leaky_relu", "tanh", "sigmoid", "softsign", "softplus", "elu")

# name, other arguments, the bound at SHAPE
UNIFORM = [
    ("xavier_uniform", {}, math.sqrt(6 / (FAN_IN + FAN_OUT))),
    ("xavier_uniform", {"gain": 5 / 3}, 5 / 3 * math.sqrt(6 / (FAN_IN + FAN_OUT))),
    ("he_uniform", {}, math.sqrt(6 / FAN_IN)),
    ("he_uniform", {"gain": 0.5}, 0.5 * math.sqrt(6 / FAN_IN)),
    ("lecun_uniform", {}, math.sqrt(3 / FAN_IN)),
    ("lecun_uniform", {"gain": 2}, 2 * math.sqrt(3 / FAN_IN)),
    ("fan_in_uniform", {}, 1 / math.sqrt(FAN_IN)),
    ("fan_in_uniform", {"gain": 3.0}, 3 / math.sqrt(FAN_IN)),
    ("uniform", {"bound": 0.3}, 0.3),
]
# name, other arguments, the standard deviation at SHAPE
NORMAL = [
    ("xavier_normal", {}, math.sqrt(2 / (FAN_IN + FAN_OUT))),
    ("xavier_normal", {"gain": 5 / 3}, 5 / 3 * math.sqrt(2 / (FAN_IN + FAN_OUT))),
    ("he_normal", {}, math.sqrt(2 / FAN_IN)),
    ("he_normal", {"gain": 0.5}, 0.5 * math.sqrt(2 / FAN_IN)),
    ("lecun_normal", {}, math.sqrt(1 / FAN_IN)),
    ("lecun_normal", {"gain": 2}, 2 * math.sqrt(1 / FAN_IN)),
    ("normal", {"std": 0.01}, 0.01),
]
RANDOM = {
    "xavier_uniform": {}, "xavier_normal": {}, "he_uniform": {}, "he_normal": {}, "lecun_uniform": {},
    "lecun_normal": {}, "fan_in_uniform": {}, "orthogonal": {}, "sparse": {"nonzeros": 2}, "normal": {"std": 0.5},
    "uniform": {"bound": 0.25},
}
EVERY = RANDOM | {"constant": {"value": -1.5}, "zeros": {}}
WITH_GAIN = ["xavier_uniform", "xavier_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal",
             "fan_in_uniform", "orthogonal"]

# float64, shape (3, 2), the arguments of RANDOM, seed 0
GOLDEN = {
    "xavier_uniform": [0.3000680226397193, -0.5043720396356872, -1.0056766217290054,
                       -1.0592348798055353, 0.6863407064201134, 0.9043021616442998],
    "xavier_normal": [0.07951877387433376, -0.08355045159713635, 0.4050388481125228,
                      0.06634465940442066, -0.3387870583967561, 0.22869279283352442],
    "he_uniform": [0.38738615147100774, -0.651141503267228, -1.2983229358755248,
                   -1.3674663497362847, 0.8860620419297778, 1.1674490706625804],
    "he_normal": [0.10265829564204268, -0.10786316920127266, 0.522902904435612,
                  0.08565058699437483, -0.4373722116937453, 0.2952411260139676],
    "lecun_uniform": [0.2739233746429086, -0.4604265724722594, -0.9180529521276106,
                      -0.9669447289429418, 0.6265404784005448, 0.8255111545554434],
    "lecun_normal": [0.07259037699354177, -0.07627077838249186, 0.3697481896285625,
                     0.06056411087633075, -0.30926885679120547, 0.20876700228962852],
    "fan_in_uniform": [0.158149734087414, -0.2658274055589157, -0.5300381190412067,
                       -0.5582657995466972, 0.36173331386275154, 0.4766090873016241],
    "orthogonal": [0.14891146369604535, -0.2958464187298021, 0.7584992170718539,
                   0.6463718479044211, -0.6344322766704784, 0.7033337264495242],
    "sparse": [0.0, 0.36159505490948474, 0.6404226504432821, 0.10490011715303971, -0.535669373161111, 0.0],
    "normal": [0.06286511054669665, -0.06605243164565094, 0.32021132522164103,
               0.052450058576519853, -0.2678346865805555, 0.18079752745474237],
    "uniform": [0.06848084366072715, -0.11510664311806484, -0.22951323803190266,
                -0.24173618223573545, 0.1566351196001362, 0.20637778863886086],
}


def call(name, shape=SHAPE, **kwargs):
    return getattr(init, name)(shape, **kwargs)


def assert_distribution(w, std, fourth, cdf):
    """Mean 0, the standard deviation, E[z^4] = `fourth` for z = w / std, and the distribution function as a whole."""
    z = np.sort(w.ravel().astype(np.float64)) / std
    n = z.size
    assert abs(z.mean()) < 5 / math.sqrt(n)
    assert abs(np.mean(z**2) - 1) < 5 * math.sqrt((fourth - 1) / n)
    step = np.arange(n + 1) / n
    p = cdf(z)
    kolmogorov = max(np.max(step[1:] - p), np.max(p - step[:-1])) * math.sqrt(n)
    assert kolmogorov < 2.23        # exceeded once in 10,000


def normal_cdf(z):
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in z])


def uniform_cdf(z):
    """Of the uniform distribution with variance 1."""
    return np.clip((z / math.sqrt(3) + 1) / 2, 0, 1)


# ---- distributions

@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "kwargs", "bound"), UNIFORM)
def test_uniform_distribution(name, kwargs, bound, dtype):
    w = call(name, rng=7, dtype=dtype, **kwargs)
    assert np.abs(w.astype(np.float64)).max() <= bound
    assert w.max() > bound * (1 - 20 / w.size)
    assert w.min() < -bound * (1 - 20 / w.size)
    assert_distribution(w, bound / math.sqrt(3), 1.8, uniform_cdf)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "kwargs", "std"), NORMAL)
def test_normal_distribution(name, kwargs, std, dtype):
    w = call(name, rng=8, dtype=dtype, **kwargs)
    assert np.abs(w).max() > 3.5 * std      # nothing is truncated
    assert_distribution(w, std, 3.0, normal_cdf)


def test_entries_are_not_correlated():
    w = call("lecun_normal", rng=3, dtype=np.float64)
    for other in (w[:, ::-1], w[::-1], np.roll(w, 1, axis=0), np.roll(w, 1, axis=1)):
        assert abs(np.mean(w * other)) * FAN_IN < 8 / math.sqrt(w.size)


class Lowest(np.random.Generator):
    """Draws the end of the interval that a uniform initialiser maps to -bound."""

    def random(self, size=None, dtype=np.float64, out=None):
        out[...] = 0.0
        return out


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bound_holds_after_rounding(dtype):
    rng = Lowest(np.random.PCG64(0))
    rounded_up = 0
    for fan_in in range(1, 60):
        bound = math.sqrt(6 / (fan_in + 3))
        rounded_up += float(dtype(bound)) > bound
        extreme = init.xavier_uniform((fan_in, 3), rng=rng, dtype=dtype)
        # the largest number of the dtype that is not above the bound
        assert float(-extreme[0, 0]) <= bound < float(np.nextafter(-extreme[0, 0], dtype(9)))
        assert (extreme == extreme[0, 0]).all()
    assert rounded_up > 10 or dtype is np.float64       # rounding to nearest would have crossed the bound


# ---- the random stream

@pytest.mark.parametrize("name", RANDOM)
def test_golden_values(name):
    w = call(name, (3, 2), rng=0, dtype=np.float64, **RANDOM[name])
    # LAPACK has a say in `orthogonal`, and a compiler that fuses multiply and add in a last bit of NumPy's normals
    np.testing.assert_allclose(w.ravel(), GOLDEN[name], rtol=1e-12 if name == "orthogonal" else 1e-15, atol=0)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (150, 250)])      # less and more than one block of the draw
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_drawn_in_float64_in_row_order_and_rounded_once(shape, dtype):
    fan_in, fan_out = shape
    normal = np.random.default_rng(5).standard_normal(shape) * math.sqrt(2 / (fan_in + fan_out))
    np.testing.assert_array_equal(init.xavier_normal(shape, rng=5, dtype=dtype), normal.astype(dtype), strict=True)
    uniform = 0.25 * (2 * np.random.default_rng(5).random(shape) - 1)      # a bound that both dtypes hold exactly
    drawn = init.uniform(shape, bound=0.25, rng=5, dtype=dtype)
    np.testing.assert_array_equal(drawn, uniform.astype(dtype), strict=True)


@pytest.mark.parametrize("name", RANDOM)
def test_float32_is_float64_rounded(name):
    a = call(name, (40, 30), rng=11, dtype=np.float64, **RANDOM[name])
    b = call(name, (40, 30), rng=11, dtype=np.float32, **RANDOM[name])
    np.testing.assert_allclose(b, a, rtol=2**-22)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", RANDOM)
def test_seeds(name, dtype):
    kwargs = RANDOM[name] | {"dtype": dtype}
    w = call(name, (20, 30), rng=4, **kwargs)
    np.testing.assert_array_equal(w, call(name, (20, 30), rng=4, **kwargs))
    np.testing.assert_array_equal(w, call(name, (20, 30), rng=np.int64(4), **kwargs))
    np.testing.assert_array_equal(w, call(name, (20, 30), rng=np.random.default_rng(4), **kwargs))
    assert not np.array_equal(w, call(name, (20, 30), rng=5, **kwargs))
    assert not np.array_equal(call(name, (20, 30), **kwargs), call(name, (20, 30), rng=None, **kwargs))


@pytest.mark.parametrize("name", RANDOM)
def test_a_generator_is_advanced(name):
    rng = np.random.default_rng(4)
    first = call(name, (20, 30), rng=rng, **RANDOM[name])
    assert rng.bit_generator.state != np.random.default_rng(4).bit_generator.state
    assert not np.array_equal(first, call(name, (20, 30), rng=rng, **RANDOM[name]))


def test_the_stream_is_as_long_as_the_matrix():
    draws = {"xavier_uniform": "random", "xavier_normal": "standard_normal", "orthogonal": "standard_normal"}
    for name, draw in draws.items():
        rng, twin = np.random.default_rng(1), np.random.default_rng(1)
        call(name, (150, 250), rng=rng)
        getattr(twin, draw)(150 * 250)
        assert rng.bit_generator.state == twin.bit_generator.state


@pytest.mark.parametrize("bit_generator", [np.random.MT19937, np.random.Philox, np.random.SFC64])
@pytest.mark.parametrize("name", RANDOM)
def test_any_bit_generator(name, bit_generator):
    a, b = (call(name, (20, 30), rng=np.random.Generator(bit_generator(3)), **RANDOM[name]) for _ in range(2))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", EVERY)
def test_global_state_is_neither_used_nor_touched(name):
    np.random.seed(123)
    before = np.random.get_state()
    for rng in (None, 0, np.random.default_rng(0)):
        call(name, rng=rng, **EVERY[name])
    after = np.random.get_state()
    assert before[0] == after[0]
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]
    np.random.seed(123)
    first = call(name, rng=None, **EVERY[name])
    np.random.seed(123)
    assert name in ("constant", "zeros") or not np.array_equal(first, call(name, rng=None, **EVERY[name]))


@pytest.mark.parametrize("name", ["constant", "zeros"])
def test_what_is_not_random_draws_nothing(name):
    rng = np.random.default_rng(0)
    call(name, rng=rng, **EVERY[name])
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


# ---- the result

@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 9), [9, 5], (np.int64(4), np.uint8(6))])
@pytest.mark.parametrize("name", EVERY)
def test_result(name, shape):
    kwargs = EVERY[name] | ({"nonzeros": 1} if name == "sparse" else {})
    forms = {np.float32: [{}, {"dtype": np.float32}, {"dtype": "float32"}, {"dtype": np.dtype("f4")}],
             np.float64: [{"dtype": np.float64}, {"dtype": "float64"}, {"dtype": np.dtype("f8")}, {"dtype": float}]}
    for dtype, given in forms.items():
        same = [call(name, shape, rng=0, **kwargs, **form) for form in given]
        for w in same:
            assert type(w) is np.ndarray
            assert w.dtype == dtype
            assert w.shape == tuple(shape)
            assert w.flags.carray
            assert np.isfinite(w).all()
            np.testing.assert_array_equal(w, same[0])
            assert not np.shares_memory(w, same[0]) or w is same[0]


def test_aliases():
    assert init.glorot_uniform is init.xavier_uniform
    assert init.glorot_normal is init.xavier_normal


def test_all_names_exist():
    of_networks = {"equal_units", "lsuv", "output_bias"}
    assert set(init.__all__) == {*EVERY, "gain", "glorot_uniform", "glorot_normal"} | of_networks
    assert all(callable(getattr(init, name)) for name in init.__all__)


def test_arguments_are_keywords_except_the_shape():
    for name in WITH_GAIN:
        with pytest.raises(TypeError):
            getattr(init, name)((3, 2), 1.0)
        np.testing.assert_array_equal(call(name, rng=1, gain=1.0), call(name, rng=1))
    np.testing.assert_array_equal(call("sparse", rng=1, nonzeros=15, std=1.0), call("sparse", rng=1))
    for name in ("normal", "uniform", "constant"):
        with pytest.raises(TypeError, match=r"std|bound|value"):
            call(name)


@pytest.mark.parametrize("name", WITH_GAIN)
def test_gain_multiplies(name):
    one = call(name, rng=2, dtype=np.float64)
    np.testing.assert_array_equal(call(name, rng=2, dtype=np.float64, gain=4), 4 * one)
    np.testing.assert_array_equal(call(name, rng=2, gain=0), 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_and_zeros(dtype):
    for value in (0.1, -2):
        w = init.constant((3, 4), value=value, dtype=dtype)
        np.testing.assert_array_equal(w, np.full((3, 4), value, dtype), strict=True)
    np.testing.assert_array_equal(init.zeros((3, 4), dtype=dtype), np.zeros((3, 4), dtype), strict=True)


# ---- orthogonal

@pytest.mark.parametrize(("dtype", "tol"), [(np.float32, 1e-6), (np.float64, 1e-12)])
@pytest.mark.parametrize("shape", [(1, 1), (120, 120), (200, 60), (60, 200), (1, 9), (9, 1)])
def test_orthogonal(shape, dtype, tol):
    w = init.orthogonal(shape, rng=6, dtype=dtype).astype(np.float64)
    product = w.T @ w if shape[0] >= shape[1] else w @ w.T
    np.testing.assert_allclose(product, np.eye(min(shape)), rtol=0, atol=tol)
    singular = np.linalg.svd(init.orthogonal(shape, rng=6, gain=2.5, dtype=dtype).astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(singular, 2.5, rtol=tol)


@pytest.mark.parametrize("shape", [(3, 3), (5, 3), (3, 5)])
def test_orthogonal_is_haar_distributed(shape):
    n_draws, n = 1500, max(shape)
    rng = np.random.default_rng(9)
    draws = np.stack([init.orthogonal(shape, rng=rng, dtype=np.float64) for _ in range(n_draws)])
    # every entry is one coordinate of a random point of the unit sphere in n dimensions: signs are fair,
    # E[w^2] = 1 / n, E[w^4] = 3 / (n (n + 2)), E[w^8] = 105 / (n (n + 2) (n + 4) (n + 6))
    second, fourth = 1 / n, 3 / (n * (n + 2))
    eighth = 105 / (n * (n + 2) * (n + 4) * (n + 6))
    assert np.abs((draws > 0).mean(axis=0) - 0.5).max() < 5 * 0.5 / math.sqrt(n_draws)
    assert np.abs((draws**2).mean(axis=0) - second).max() < 5 * math.sqrt((fourth - second**2) / n_draws)
    assert np.abs((draws**4).mean(axis=0) - fourth).max() < 5 * math.sqrt((eighth - fourth**2) / n_draws)
    if shape == (3, 3):
        # rotations and reflections alike; the trace has mean 0 and variance 1
        assert abs((np.linalg.det(draws) > 0).mean() - 0.5) < 5 * 0.5 / math.sqrt(n_draws)
        trace = np.trace(draws, axis1=1, axis2=2)
        assert abs(trace.mean()) < 5 / math.sqrt(n_draws)
        assert abs(np.mean(trace**2) - 1) < 5 * math.sqrt(2 / n_draws)


def test_orthogonal_wide_is_the_transpose_of_tall():
    np.testing.assert_array_equal(init.orthogonal((4, 7), rng=3), init.orthogonal((7, 4), rng=3).T)


def test_orthogonal_of_one_entry_is_a_fair_sign():
    rng = np.random.default_rng(2)
    draws = np.array([init.orthogonal((1, 1), rng=rng)[0, 0] for _ in range(400)])
    np.testing.assert_array_equal(np.abs(draws), 1)
    assert abs((draws > 0).mean() - 0.5) < 5 * 0.5 / 20


def test_orthogonal_that_fails_draws_nothing(monkeypatch):
    def fail(a):
        raise MemoryError

    monkeypatch.setattr(np.linalg, "qr", fail)
    rng = np.random.default_rng(4)
    with pytest.raises(MemoryError):
        init.orthogonal((4, 3), rng=rng)
    assert rng.bit_generator.state == np.random.default_rng(4).bit_generator.state


# ---- sparse

@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "nonzeros"), [((784, 300), 15), ((15, 40), 15), ((16, 1), 15), ((30, 50), 1),
                                                 ((1, 1), 1), ((60, 20), 59), ((300, 7), 150)])
def test_sparse_has_exactly_so_many_nonzeros_in_every_column(shape, nonzeros, dtype):
    w = init.sparse(shape, nonzeros=nonzeros, rng=1, dtype=dtype)
    np.testing.assert_array_equal(np.count_nonzero(w, axis=0), nonzeros)


def test_sparse_defaults():
    np.testing.assert_array_equal(np.count_nonzero(init.sparse((100, 30), rng=0), axis=0), 15)
    np.testing.assert_array_equal(init.sparse((100, 30), rng=0, dtype=np.float64),
                                  init.sparse((100, 30), rng=0, std=1.0, dtype=np.float64))


@pytest.mark.parametrize("std", [1.0, 0.01])
def test_sparse_weights_are_normal(std):
    w = init.sparse((400, 2000), nonzeros=15, std=std, rng=3)
    assert_distribution(w[w != 0], std, 3.0, normal_cdf)


@pytest.mark.parametrize("nonzeros", [1, 3, 9])
def test_sparse_chooses_rows_evenly(nonzeros):
    fan_in, fan_out = 12, 20_000
    chosen = init.sparse((fan_in, fan_out), nonzeros=nonzeros, rng=5) != 0
    p = nonzeros / fan_in
    assert np.abs(chosen.mean(axis=1) - p).max() < 5 * math.sqrt(p * (1 - p) / fan_out)
    # two rows together: any pair is as likely as any other
    pairs = (chosen.astype(np.float64) @ chosen.T.astype(np.float64) / fan_out)[~np.eye(fan_in, dtype=bool)]
    p = p * (nonzeros - 1) / (fan_in - 1)
    assert np.abs(pairs - p).max() <= 5 * math.sqrt(p * (1 - p) / fan_out)
    # a column tells nothing about the next
    both = (chosen[:, 1:] & chosen[:, :-1]).mean()
    p = (nonzeros / fan_in) ** 2
    assert abs(both - p) < 5 * math.sqrt(p / chosen.size)


# ---- gain

def test_gain_table():
    expected = {"identity": 1.0, "relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / (1 + 0.01**2)), "tanh": 5 / 3,
                "sigmoid": 1.0, "softsign": 2.33753336310854, "softplus": 1.041866835535302, "elu": 1.2451983007007066}
    assert set(expected) == set(KINDS)
    for kind, value in expected.items():
        assert type(init.gain(kind)) is float
        assert init.gain(kind) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("kind", ["identity", "relu", "leaky_relu", "softsign", "softplus", "elu"])
def test_gain_keeps_the_second_moment(kind):
    """1 / gain^2 = E[f(z)^2], by Gauss-Legendre quadrature on either side of the kink at 0."""
    f = {"identity": lambda z: z, "relu": lambda z: np.maximum(z, 0),
         "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z), "softsign": lambda z: z / (1 + np.abs(z)),
         "softplus": lambda z: np.logaddexp(0, z),
         "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0)))}[kind]
    nodes, weights = np.polynomial.legendre.leggauss(200)
    z, weights = 7 * (nodes + 1), 7 * weights       # [0, 14], beyond which exp(-z^2 / 2) < 1e-42
    density = np.exp(-z**2 / 2) / math.sqrt(2 * math.pi)
    moment = np.sum(weights * density * (f(z)**2 + f(-z)**2))
    assert init.gain(kind) == pytest.approx(1 / math.sqrt(moment), rel=1e-13)


def test_gain_of_tanh_is_near_the_second_moment_rule():
    z = np.arange(-12, 12, 0.001)
    moment = 0.001 * np.sum(np.tanh(z)**2 * np.exp(-z**2 / 2)) / math.sqrt(2 * math.pi)
    assert 1 < init.gain("tanh") * math.sqrt(moment) < 1.06


def test_signal_keeps_its_size_through_relu_and_tanh_layers():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 256))
    layers = {"he": (init.he_normal, {}, lambda z: np.maximum(z, 0)),
              "tanh": (init.xavier_uniform, {"gain": init.gain("tanh")}, np.tanh),
              "orthogonal": (init.orthogonal, {}, lambda z: z)}
    rms = {}
    for key, (initialiser, kwargs, f) in layers.items():
        h = x
        for _ in range(20):
            h = f(h @ initialiser((256, 256), rng=rng, dtype=np.float64, **kwargs))
        rms[key] = math.sqrt(np.mean(h**2))
    assert 1 / 3 < rms["he"] < 3                            # 1e-3 with Xavier's variance
    assert rms["tanh"] == pytest.approx(0.651, rel=0.05)    # 0.16 at gain 1
    assert rms["orthogonal"] == pytest.approx(math.sqrt(np.mean(x**2)), rel=1e-12)


# ---- what is refused

BAD_SHAPES = [
    ((5,), ValueError), ((2, 3, 4), ValueError), ((), ValueError), (5, ValueError), ([5], ValueError),
    ((0, 3), ValueError), ((3, 0), ValueError), ((-1, 3), ValueError), ((3, -1), ValueError),
    ((2**40, 2**40), ValueError),
    ((3.0, 2), TypeError), ((3, 2.0), TypeError), ((True, 2), TypeError), ((3, np.True_), TypeError),
    (("3", 2), TypeError), ((3, None), TypeError), (None, TypeError), ("32", TypeError), (3.0, TypeError),
    (True, TypeError), ({3, 2}, TypeError), (np.array([3, 2]), TypeError),
]
BAD_NUMBERS = [
    (math.nan, ValueError), (math.inf, ValueError), (-math.inf, ValueError), (np.float64("nan"), ValueError),
    (True, TypeError), (np.True_, TypeError), ("1", TypeError), (None, TypeError), (1j, TypeError), ([1.0], TypeError),
    (np.ones(1), TypeError),
]
NEGATIVE = [(-1.0, ValueError), (-1e-300, ValueError), (-3, ValueError)]


def assert_refused(name, argument, value, error, shape=(20, 16), **kwargs):
    """The error names the argument first, and a generator passed in is as it was."""
    kwargs = EVERY[name] | kwargs
    if argument == "shape":
        shape = value
    else:
        kwargs[argument] = value
    rng = np.random.default_rng(3)
    kwargs.setdefault("rng", rng)
    with pytest.raises(error, match=f"^{argument}: expected .*(got|finite)"):
        call(name, shape, **kwargs)
    assert rng.bit_generator.state == np.random.default_rng(3).bit_generator.state


@pytest.mark.parametrize("name", EVERY)
def test_bad_shape(name):
    for value, error in BAD_SHAPES:
        assert_refused(name, "shape", value, error)


@pytest.mark.parametrize("name", EVERY)
def test_bad_dtype(name):
    for value in (np.float16, int, "int32", "complex64", bool, "f4,f4", np.dtype(np.float32).newbyteorder()):
        assert_refused(name, "dtype", value, TypeError)


# None == np.dtype("float64") is True
@pytest.mark.parametrize("value", [None, "garbage", 3])
def test_what_is_no_dtype(value):
    assert_refused("xavier_uniform", "dtype", value, TypeError)


@pytest.mark.parametrize("name", EVERY)
def test_bad_rng(name):
    for value, error in ((-1, ValueError), (True, TypeError), (1.0, TypeError), ("0", TypeError), ([1, 2], TypeError),
                         (np.random, TypeError), (np.random.RandomState(0), TypeError),
                         (np.random.PCG64(0), TypeError)):
        assert_refused(name, "rng", value, error)


@pytest.mark.parametrize("name", WITH_GAIN)
def test_bad_gain(name):
    for value, error in BAD_NUMBERS + NEGATIVE:
        assert_refused(name, "gain", value, error)


@pytest.mark.parametrize(("name", "argument"), [("normal", "std"), ("uniform", "bound"), ("sparse", "std")])
def test_bad_std_and_bound(name, argument):
    for value, error in BAD_NUMBERS + NEGATIVE:
        assert_refused(name, argument, value, error)


def test_zero_std_and_bound():
    np.testing.assert_array_equal(init.normal((3, 4), std=0), np.zeros((3, 4)))
    np.testing.assert_array_equal(init.uniform((3, 4), bound=0), np.zeros((3, 4)))
    assert_refused("sparse", "std", 0.0, ValueError)        # would have no nonzeros


def test_bad_value():
    for value, error in BAD_NUMBERS:
        assert_refused("constant", "value", value, error)


def test_bad_nonzeros():
    for value, error in ((0, ValueError), (-1, ValueError), (21, ValueError), (10**30, ValueError), (15.0, TypeError),
                         (True, TypeError), ("15", TypeError), (None, TypeError)):
        assert_refused("sparse", "nonzeros", value, error)
    with pytest.raises(ValueError, match=r"^nonzeros: expected at most 10, fan_in, got 15$"):
        init.sparse((10, 4))


@pytest.mark.parametrize(("name", "argument"), [*((name, "gain") for name in WITH_GAIN), ("normal", "std"),
                                                ("sparse", "std"), ("uniform", "bound"), ("constant", "value")])
def test_what_would_overflow_is_refused(name, argument):
    one = (1, 1)
    kwargs = {"nonzeros": 1} if name == "sparse" else {}
    assert_refused(name, argument, 1e39, ValueError, one, dtype=np.float32, **kwargs)
    assert np.isfinite(call(name, one, dtype=np.float64, **EVERY[name] | kwargs | {argument: 1e39})).all()
    assert np.isfinite(call(name, one, dtype=np.float32, **EVERY[name] | kwargs | {argument: 1e37})).all()
    if name in ("xavier_uniform", "xavier_normal", "he_uniform", "he_normal", "lecun_uniform", "normal", "sparse"):
        assert_refused(name, argument, 1.7e308, ValueError, one, dtype=np.float64, **kwargs)
    if name == "constant":
        assert_refused(name, argument, -1e39, ValueError, one, dtype=np.float32)


def test_bad_activation():
    for value, error in (("swish", ValueError), ("ReLU", ValueError), ("", ValueError), (None, TypeError),
                         (1, TypeError), (np.tanh, TypeError)):
        with pytest.raises(error, match=r"^activation: expected one of 'identity', 'relu'.*got"):
            init.gain(value)
