from typing import Any

def update(
    grad: Any, lr: float, step: float, beta1: float, beta2: float, eps: float, eps_hat: bool, weight_decay: float,
    decoupled: bool, m: Any, v: Any, param: Any, n_threads: int = 1,
) -> None: ...
