"""`fastnn.sklearn.MLPClassifier`, with the options of scikit-learn's: for the suite `sklearn`."""

from __future__ import annotations

from bench.peers import estimator_sklearn
from bench.task import Task
from fastnn.reference import Array
from fastnn.sklearn import MLPClassifier


class Rival(estimator_sklearn.Rival):
    KIND = MLPClassifier

    def __init__(self, task: Task, x: Array, y: Array) -> None:
        super().__init__(task, x, y)
        self.options["dtype"] = task.dtype
