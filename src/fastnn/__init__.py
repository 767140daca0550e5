"""fastnn: dense neural networks on a CPU, from NumPy arrays.

Start with `Sequential` for networks, or call the kernels (`dense_forward`, `batchnorm_backward`, `sgd_update`, ...) on your
own arrays. `fastnn.reference` has the same kernels in plain NumPy.
"""

from fastnn import callbacks, init, reference, schedules
from fastnn._version import __version__
from fastnn.activation import activation_backward, activation_forward
from fastnn.batchnorm import batchnorm_backward, batchnorm_forward, batchnorm_inference
from fastnn.config import show_config
from fastnn.dense import dense_backward, dense_forward
from fastnn.errors import DivergedError
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
from fastnn.network import Sequential
from fastnn.optimizers import SGD
from fastnn.sgd import sgd_update
from fastnn.threads import get_num_threads, num_threads, set_num_threads
from fastnn.training import History

__all__ = [
    "ELU", "SGD", "Activation", "BatchNorm", "Dense", "DivergedError", "Dropout", "History", "LeakyReLU", "ReLU",
    "Sequential", "Sigmoid", "Softplus", "Softsign", "Tanh", "__version__", "activation_backward", "activation_forward",
    "batchnorm_backward", "batchnorm_forward", "batchnorm_inference", "callbacks", "dense_backward", "dense_forward",
    "get_num_threads", "init", "mean_squared_error", "num_threads", "reference", "schedules", "set_num_threads", "sgd_update",
    "show_config", "sigmoid_cross_entropy", "softmax_cross_entropy",
]
