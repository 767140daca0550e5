"""fastnn: dense neural networks on a CPU, from NumPy arrays.

Start with `Sequential` for networks, or call the kernels (`dense_forward`, `batchnorm_backward`, `sgd_update`, ...) on your
own arrays. `fastnn.reference` has the same kernels in plain NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastnn import callbacks, init, reference, schedules
from fastnn._version import __version__
from fastnn.activation import activation_backward, activation_forward
from fastnn.adam import adam_update
from fastnn.batchnorm import batchnorm_backward, batchnorm_forward, batchnorm_inference
from fastnn.config import show_config
from fastnn.dense import dense_backward, dense_forward
from fastnn.errors import CheckpointError, DivergedError
from fastnn.layers import (
    ELU,
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    LeakyReLU,
    ReLU,
    Sigmoid,
    Softplus,
    Softsign,
    Tanh,
)
from fastnn.loss import mean_squared_error, sigmoid_cross_entropy, softmax_cross_entropy
from fastnn.network import Sequential, load
from fastnn.optimizers import SGD, Adam, AdamW
from fastnn.sgd import sgd_update
from fastnn.threads import get_num_threads, num_threads, set_num_threads
from fastnn.training import History

if TYPE_CHECKING:
    from fastnn import data, interop
    from fastnn.diagnosis import Diagnosis, diagnose
    from fastnn.htmlreport import report
    from fastnn.many import fit_many
    from fastnn.predictor import Predictor

__all__ = [
    "ELU", "SGD", "Activation", "Adam", "AdamW", "BatchNorm", "CheckpointError", "Dense", "Diagnosis", "DivergedError",
    "Dropout", "History", "LeakyReLU", "Predictor", "ReLU", "Sequential", "Sigmoid", "Softplus", "Softsign", "Tanh",
    "__version__", "activation_backward", "activation_forward", "adam_update", "batchnorm_backward", "batchnorm_forward",
    "batchnorm_inference", "callbacks", "data", "dense_backward", "dense_forward", "diagnose", "fit_many", "get_num_threads",
    "init", "interop", "load", "mean_squared_error", "num_threads", "reference", "report", "schedules", "set_num_threads",
    "sgd_update", "show_config", "sigmoid_cross_entropy", "softmax_cross_entropy",
]

# What training needs not is imported when it is first asked for: `import fastnn` stays quick.
_LATER = {
    "Diagnosis": "fastnn.diagnosis", "Predictor": "fastnn.predictor", "data": "fastnn.data", "diagnose": "fastnn.diagnosis",
    "fit_many": "fastnn.many", "interop": "fastnn.interop", "report": "fastnn.htmlreport",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_LATER[name])
    value = globals()[name] = getattr(module, name, module)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
