from typing import Any

def forward(
    x: Any, gamma: Any, beta: Any, eps: float, momentum: float, running_mean: Any, running_var: Any,
    out: Any, mean: Any, rstd: Any, n_threads: int = 1,
) -> int: ...
def backward(
    dout: Any, x: Any, gamma: Any, mean: Any, rstd: Any, dx: Any, dgamma: Any, dbeta: Any, n_threads: int = 1,
) -> None: ...
def inference(
    x: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any, eps: float, out: Any, n_threads: int = 1,
) -> None: ...
