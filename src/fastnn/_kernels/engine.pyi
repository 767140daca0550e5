from typing import Any

OPS: dict[str, int]
LOSSES: dict[str, int]
STATUS: dict[str, int]
WANTED: dict[str, int]
LOSS_ROWS: int
TUNER: int
PROGRESS_OF_RUN: int
SUMS_OF_EPOCH: int
MARKS_OF_EPOCH: int
EXCHANGES: dict[str, int]

class Program:
    def __new__(cls, ops: Any, blocks: Any, layout: Any, memory: Any) -> Program: ...

def train(
    program: Program, parameters: Any, statistics: Any, velocity: Any, second_moment: Any,
    gradients: Any, snapshot: Any, average: Any, average_snapshot: Any, x: Any, y: Any, orders: Any, weights: Any, starts: Any,
    until: int, lrs: Any, momentum: float, nesterov: bool, beta2: float, eps: float, eps_hat: bool, decoupled: bool, weight_decay: float,
    decays_all: bool, clip_norm: float, average_rate: float, average_from: float, trained: float, fused: bool, updates: bool,
    moves_statistics: bool, check_x: bool, key: int, first_step: int, n_threads: int, tuner: Any, patience: float, progress: Any,
    sums: Any, marks: Any, profile: Any, exchange: Any = None,
) -> int: ...
class Inference:
    def __new__(
        cls, ops: Any, blocks: Any, held: Any, of_outputs: Any, n_in: int, n_out: int, loss: int, n_weights: int, longest: int,
        n_rows: int, n_work: int,
    ) -> Inference: ...
    def quick(self, x: Any, wanted: int) -> Any: ...
    def rows(self, x: Any, result: Any, memory: Any, wanted: int, chunk: int, n_threads: int) -> None: ...
    def room(self, n: int, wanted: int) -> Any: ...
