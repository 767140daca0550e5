from typing import Any

def update(
    grad: Any, lr: float, momentum: float, nesterov: bool, weight_decay: float, velocity: Any, param: Any,
    n_threads: int = 1,
) -> None: ...
