"""`fastnn.sklearn`: the steps of scikit-learn's own classes, their attributes and rules, and what is added."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn.neural_network as theirs
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_digits, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import fastnn.sklearn as ours
from fastnn.callbacks import Callback, EarlyStopping, Run
from fastnn.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_digits(return_X_y=True)
X /= 16
X_TWO, Y_TWO = X[Y < 2], Y[Y < 2]
X_MANY, Y_MANY = make_multilabel_classification(240, n_classes=3, n_labels=1, random_state=0)
X_REAL, Y_REAL = make_regression(240, 10, n_targets=3, random_state=0)
Y_REAL /= 100
QUICK: dict[str, Any] = {"hidden_layer_sizes": (20, 10), "random_state": 0, "max_iter": 6}
SGD: dict[str, Any] = QUICK | {"solver": "sgd", "learning_rate_init": 0.02}


def parameters(mlp: Any) -> list[Any]:
    return [*mlp.coefs_, *mlp.intercepts_]


def assert_same(one: Any, other: Any, **tolerance: float) -> None:
    for a, b in zip(parameters(one), parameters(other), strict=True):
        np.testing.assert_allclose(a, b, **({"rtol": 0, "atol": 0} | tolerance))


# ---------------------------------------------------------------------------------------- the steps of scikit-learn

DATA: dict[str, Any] = {
    "classes": (X[:600], Y[:600]), "two": (X_TWO[:300], Y_TWO[:300]), "labels": (X_MANY[:200], Y_MANY[:200]),
    "number": (X_REAL[:200], Y_REAL[:200, 0]), "numbers": (X_REAL[:200], Y_REAL[:200])}
OPTIONS: dict[str, Any] = {
    "plain": {}, "penalty": {"alpha": 2.0}, "no momentum": {"momentum": 0}, "heavy ball": {"nesterovs_momentum": False},
    "invscaling": {"learning_rate": "invscaling", "power_t": 0.3},
    "adaptive": {"learning_rate": "adaptive", "tol": 1e9, "n_iter_no_change": 1, "max_iter": 8},
    "logistic": {"activation": "logistic"}, "tanh": {"activation": "tanh"}, "identity": {"activation": "identity"},
    "adam": {"solver": "adam"}, "adam's": {"solver": "adam", "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3, "alpha": 2.0}}


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("option", OPTIONS)
def test_same_steps_as_scikit_learn(kind: str, option: str) -> None:
    x, y = DATA[kind]
    name = "MLPRegressor" if kind.startswith("number") else "MLPClassifier"
    options = SGD | {"shuffle": False, "batch_size": 100} | OPTIONS[option]
    his = getattr(theirs, name)(**options).fit(x, y)
    own = getattr(ours, name)(dtype="float64", **options).fit(x, y)
    assert_same(own, his, atol=1e-12)
    for attribute in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "_no_improvement_count"):
        assert getattr(own, attribute) == getattr(his, attribute), attribute
    # the squares of the weights, of which the loss has its L2 term, are known at the ends of an epoch only
    squares = sum(float((a * a).sum()) for a in his.coefs_)
    term = 0.5 * options.get("alpha", 1e-4) * squares / options["batch_size"]
    np.testing.assert_allclose(own.loss_curve_, his.loss_curve_, rtol=1e-9, atol=0.03 * term)
    np.testing.assert_allclose(own.predict(x), his.predict(x), atol=1e-12)
    if name == "MLPClassifier":
        np.testing.assert_allclose(own.predict_proba(x), his.predict_proba(x), atol=1e-12)


def test_loss_of_one_batch_is_exact() -> None:
    options = SGD | {"shuffle": False, "alpha": 3.0}
    his = theirs.MLPClassifier(**options).fit(X[:150], Y[:150])
    own = MLPClassifier(dtype="float64", **options).fit(X[:150], Y[:150])
    np.testing.assert_allclose(own.loss_curve_, his.loss_curve_, rtol=1e-12)
    assert own.best_loss_ == min(own.loss_curve_) and own.loss_ == own.loss_curve_[-1]


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.parametrize("weighted", [False, True])
def test_early_stopping_as_scikit_learn(name: str, weighted: bool) -> None:
    x, y = (X, Y) if name == "MLPClassifier" else (X_REAL, Y_REAL)
    weight = [np.random.default_rng(0).integers(1, 4, len(x)).astype(float)] if weighted else []
    if weighted and "sample_weight" not in inspect.signature(getattr(theirs, name).fit).parameters:
        pytest.skip("scikit-learn < 1.7")
    options = SGD | {
        "shuffle": False, "early_stopping": True, "n_iter_no_change": 2, "max_iter": 40, "batch_size": 10000, "momentum": 0.5,
        "learning_rate_init": 0.3 if name == "MLPClassifier" else 0.01, "tol": 0.02}
    with pytest.warns(UserWarning, match="It is going to be clipped"):
        his = getattr(theirs, name)(**options).fit(x, y, *weight)
    with pytest.warns(UserWarning, match="It is going to be clipped"):
        own = getattr(ours, name)(dtype="float64", **options).fit(x, y, *weight)
    assert own.n_iter_ == his.n_iter_ and own.best_loss_ is None
    np.testing.assert_allclose(own.validation_scores_, his.validation_scores_, rtol=1e-9)
    assert own.best_validation_score_ == max(own.validation_scores_)
    assert_same(own, his, atol=1e-11)
    assert len(own.validation_loss_curve_) == len(own.loss_curve_) == own.n_iter_


def test_shorter_last_batch_decays_less() -> None:
    # the one difference in the steps: there alpha is over the 1 row of the last batch, here over the 100 of the others
    x, y = X[:101], Y[:101]
    options = SGD | {"shuffle": False, "batch_size": 100, "max_iter": 1, "momentum": 0, "hidden_layer_sizes": (), "alpha": 1.0}
    his, own = theirs.MLPClassifier(**options).fit(x, y), MLPClassifier(dtype="float64", **options).fit(x, y)
    before_last = own.coefs_[0] / (1 - 0.02 / 100)      # up to the gradient of the loss
    np.testing.assert_allclose(own.coefs_[0] - his.coefs_[0], 0.02 * (1 - 1 / 100) * before_last, atol=1e-3)
    assert_same(own, his, atol=0.02)


def test_verbose_as_scikit_learn(capsys: pytest.CaptureFixture[str]) -> None:
    options = SGD | {
        "shuffle": False, "verbose": True, "early_stopping": True, "n_iter_no_change": 1, "tol": 1.0, "max_iter": 20,
        "learning_rate": "adaptive", "learning_rate_init": 1e-5, "alpha": 0}
    theirs.MLPClassifier(**options).fit(X_TWO, Y_TWO)
    expected = capsys.readouterr().out
    MLPClassifier(dtype="float64", **options).fit(X_TWO, Y_TWO)
    assert capsys.readouterr().out == expected
    assert "Setting learning rate to" in expected and "Learning rate too small. Stopping." in expected


# -------------------------------------------------------------------------------------------------- its conventions

@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("options", [{}, {"solver": "sgd"}, {"dtype": "float64"}], ids=str)
def test_check_estimator(kind: Any, options: dict[str, Any]) -> None:
    check_estimator(kind(max_iter=50, **options), on_skip=None)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_check_estimator_with_the_additions(kind: Any) -> None:
    # batch norm sees every row once, whatever its weight, and no batch of one row
    checks = [f"check_sample_weight_equivalence_on_{kind}_data" for kind in ("dense", "sparse")]
    mlp = kind(max_iter=50, batch_norm=True, init="he_normal", activation="elu")
    check_estimator(mlp, expected_failed_checks=dict.fromkeys([*checks, "check_fit2d_1sample"], "batch norm"), on_skip=None)


@pytest.mark.parametrize("seed", range(10))
def test_a_weight_is_a_repetition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, weight = rng.standard_normal((30, 8)), rng.integers(0, 3, 30), rng.integers(0, 4, 30)
    order = rng.permutation(30)
    weighted = MLPClassifier(max_iter=60, random_state=0).fit(x[order], y[order], weight[order])
    repeated = MLPClassifier(max_iter=60, random_state=0).fit(x.repeat(weight, axis=0), y.repeat(weight))
    assert weighted.coefs_[0].dtype == np.float32
    np.testing.assert_allclose(weighted.predict_proba(x), repeated.predict_proba(x), rtol=3e-7)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_a_small_fit_leaves_what_goes_on(solver: str) -> None:
    mlp = MLPClassifier(**QUICK | {"solver": solver}).fit(X[:200], Y[:200])
    exact = MLPClassifier(**QUICK | {"solver": solver}, dtype="float64").fit(X[:200], Y[:200])
    assert {mlp._network.dtype, mlp._network._velocity.dtype} == {np.dtype(np.float32)}
    for _ in range(2):      # the second time the velocity and the order of the rows have gone on
        assert_same(mlp, exact, rtol=1e-5, atol=1e-6)
        mlp.partial_fit(X[:200], Y[:200])
        exact.partial_fit(X[:200], Y[:200])
    assert all(a.dtype == np.float32 for a in parameters(mlp)) and mlp.predict_proba(X).dtype == np.float32


def test_a_small_fit_is_in_the_range_of_its_dtype() -> None:
    x, y = X_REAL[:150], Y_REAL[:150]
    for data in ((x * 1e40, y), (x, y * 1e40)):
        with pytest.raises(ValueError, match=r"non-finite parameter weights|y: expected finite numbers"):
            MLPRegressor(**QUICK).fit(*data)
    wild = SGD | {"learning_rate_init": 1e3, "activation": "identity", "max_iter": 3, "hidden_layer_sizes": 5}
    exact = MLPRegressor(**wild, dtype="float64").fit(x, y * 100)
    assert all(np.isfinite(a).all() for a in parameters(exact)) and max(abs(a).max() for a in parameters(exact)) > 1e39
    with pytest.raises(ValueError, match=r"non-finite parameter weights.*\(they are too large for float32\)"):
        MLPRegressor(**wild).fit(x, y * 100)
    # the best weights are those of the first epoch; the velocity is infinite by now
    mlp = MLPRegressor(**wild, early_stopping=True).fit(x, y * 100)
    assert all(np.isfinite(a).all() for a in parameters(mlp)) and mlp._network._velocity is None
    mlp.set_params(early_stopping=False).partial_fit(x / 1e10, y)
    # of moments alone: the gradient's square
    with pytest.raises(ValueError, match=r"\(they are too large for float32\)"):
        MLPRegressor(**QUICK).fit(x, y * 1e30)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_fits_of_sparse_and_dense_rows_are_the_same(dtype: str) -> None:
    dense = MLPClassifier(**QUICK, dtype=dtype).fit(X[:150], Y[:150])
    assert_same(dense, MLPClassifier(**QUICK, dtype=dtype).fit(sparse.csr_array(X[:150]), Y[:150]))
    assert_same(dense, MLPClassifier(**QUICK, dtype=dtype).fit(np.asfortranarray(X[:150]), Y[:150]))


def test_tools_of_scikit_learn() -> None:
    pipe = make_pipeline(StandardScaler(), MLPClassifier(**QUICK | {"max_iter": 20, "learning_rate_init": 0.01}))
    assert cross_val_score(pipe, X, Y, cv=3).mean() > 0.85
    options = {"mlpclassifier__batch_norm": [False, True], "mlpclassifier__alpha": [1e-4, 300.0]}
    grid = GridSearchCV(pipe, options, cv=2, n_jobs=2).fit(X, Y)
    assert grid.best_params_["mlpclassifier__alpha"] == 1e-4 and grid.best_score_ > 0.85
    made = clone(MLPRegressor(dropout=0.1, callbacks=[EarlyStopping("loss")]))
    assert made.dropout == 0.1 and isinstance(made.callbacks[0], EarlyStopping)
    more = {"batch_norm": False, "dropout": 0.0, "init": "xavier_uniform", "callbacks": (), "dtype": "float32"}
    assert clone(MLPClassifier()).get_params() == theirs.MLPClassifier().get_params() | more | {"class_weight": None}
    assert clone(MLPRegressor()).get_params() == theirs.MLPRegressor().get_params() | more | {"loss": "squared_error"}


@pytest.mark.parametrize("way", ["pickle", "joblib", "deepcopy"])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_copies_train_on_as_the_original(way: str, solver: str, tmp_path: Path) -> None:
    mlp = MLPClassifier(**QUICK | {"solver": solver, "batch_norm": True, "dropout": 0.2}).fit(X, Y)
    if way == "joblib":
        joblib.dump(mlp, tmp_path / "mlp")
        other = joblib.load(tmp_path / "mlp")
    else:
        other = pickle.loads(pickle.dumps(mlp)) if way == "pickle" else copy.deepcopy(mlp)
    np.testing.assert_array_equal(mlp.predict_proba(X), other.predict_proba(X))
    before = pickle.dumps(mlp.coefs_)
    other.partial_fit(X, Y)
    assert pickle.dumps(mlp.coefs_) == before
    mlp.partial_fit(X, Y)
    assert_same(mlp, other)
    assert not np.array_equal(pickle.loads(before)[0], mlp.coefs_[0])


@pytest.mark.parametrize(
    "options", [{}, {"solver": "sgd", "learning_rate": "invscaling"}, {"batch_norm": True, "dropout": 0.3}], ids=str)
def test_partial_fit_is_fit_by_epochs(options: dict[str, Any]) -> None:
    whole = MLPClassifier(**QUICK | options).fit(X, Y)
    parts = MLPClassifier(**QUICK | options)
    for _ in range(6):
        parts.partial_fit(X, Y, classes=range(10))
        assert parts.n_iter_ == 1
    assert_same(whole, parts)
    assert parts.loss_curve_ == whole.loss_curve_ and parts.t_ == whole.t_ == 6 * len(X)


def test_warm_start_goes_on() -> None:
    options = SGD | {"momentum": 0, "batch_size": 100}
    whole = MLPRegressor(**options | {"max_iter": 12}).fit(X_REAL, Y_REAL)
    parts = MLPRegressor(**options, warm_start=True).fit(X_REAL, Y_REAL).fit(X_REAL, Y_REAL)
    assert_same(whole, parts)
    assert parts.loss_curve_ == whole.loss_curve_ and parts.n_iter_ == 6
    cold = MLPRegressor(**options).fit(X_REAL, Y_REAL)
    again = copy.deepcopy(cold).fit(X_REAL, Y_REAL)
    assert_same(cold, again)
    with pytest.raises(ValueError, match=r"sizes: expected \[10, 20, 10, 3\], as in the training .* got \[10, 5, 3\]"):
        parts.set_params(hidden_layer_sizes=5).fit(X_REAL, Y_REAL)
    # stopping early from now on
    parts.set_params(hidden_layer_sizes=(20, 10), early_stopping=True).fit(X_REAL, Y_REAL)
    assert len(parts.validation_scores_) == 6 and len(parts.loss_curve_) == 18


def test_the_best_weights_of_all_fits() -> None:
    mlp = MLPClassifier(**QUICK, early_stopping=True, warm_start=True, batch_size=100).fit(X, Y)
    best, score = [a.copy() for a in parameters(mlp)], mlp.best_validation_score_
    mlp.set_params(learning_rate_init=1.0).fit(X, Y)
    assert max(mlp.validation_scores_[6:]) < score == mlp.best_validation_score_
    for a, b in zip(parameters(mlp), best, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("container", [sparse.csr_array, sparse.csc_matrix, sparse.csr_matrix])
def test_sparse_is_dense(container: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "PREDICTED_ROWS", 100)
    dense = MLPClassifier(**QUICK).fit(X, Y)
    mlp = MLPClassifier(**QUICK).fit(container(X), Y)
    np.testing.assert_allclose(mlp.coefs_[0], dense.coefs_[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(mlp.predict_proba(container(X)), mlp.predict_proba(X), rtol=1e-6)


def test_integers_are_not_converted_as_a_whole() -> None:
    images = (X * 16).astype(np.uint8)
    expected = MLPClassifier(**QUICK).fit(X * 16, Y).predict_proba(X * 16)
    np.testing.assert_array_equal(MLPClassifier(**QUICK).fit(images, Y).predict_proba(images), expected)


def test_conversion_of_float64_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = MLPClassifier(**QUICK).fit(X, Y)
    monkeypatch.setattr(ours, "CONVERTED_BYTES", 0)
    assert_same(at_once, MLPClassifier(**QUICK).fit(X, Y))


def test_labels_of_any_kind() -> None:
    names = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"], dtype=object)[Y]
    mlp = MLPClassifier(**QUICK | {"max_iter": 30, "early_stopping": True, "learning_rate_init": 0.01}).fit(X, names)
    assert mlp.score(X, names) > 0.9 and list(mlp.classes_) == sorted(set(names)) and mlp.predict(X).dtype.kind == "U"
    two = MLPClassifier(**QUICK | {"max_iter": 30}).fit(X_TWO, Y_TWO == 1)
    assert two.predict(X_TWO).dtype == bool and two.predict_proba(X_TWO).shape == (len(X_TWO), 2)
    assert set(MLPClassifier(**QUICK).fit(X[:9], [7] * 9).predict(X)) == {7}
    many = MLPClassifier(**QUICK).fit(X_MANY, sparse.csr_array(Y_MANY))
    assert sparse.issparse(many.predict(X_MANY)) and many.predict(X_MANY).dtype.kind == "i"
    dense = MLPClassifier(**QUICK).fit(X_MANY, Y_MANY)
    np.testing.assert_array_equal(many.predict(X_MANY).toarray(), dense.predict(X_MANY))
    parts = MLPClassifier(**QUICK).partial_fit(X_MANY, sparse.csr_array(Y_MANY), classes=[0, 1, 2])
    assert sparse.issparse(parts.predict(X_MANY)) and parts.predict_proba(X_MANY).shape == Y_MANY.shape
    with pytest.raises(ValueError, match="y: expected an indicator matrix of several labels, as before, got one label"):
        many.partial_fit(X_MANY, Y_MANY[:, 0])


def test_class_weight_is_a_sample_weight() -> None:
    by_class = MLPClassifier(**QUICK, class_weight={3: 5.0, 4: 0.5}).fit(X, Y)
    by_row = MLPClassifier(**QUICK).fit(X, Y, np.where(Y == 3, 5.0, np.where(Y == 4, 0.5, 1.0)))
    assert_same(by_class, by_row)
    assert not np.array_equal(by_class.coefs_[0], MLPClassifier(**QUICK).fit(X, Y).coefs_[0])
    rare = np.flatnonzero((Y != 1) | (np.arange(len(Y)) % 8 == 0))
    balanced = MLPClassifier(**QUICK, class_weight="balanced").fit(X[rare], Y[rare], np.full(len(rare), 2.0))
    recalls = [mlp.score(X[Y == 1], Y[Y == 1]) for mlp in (balanced, MLPClassifier(**QUICK).fit(X[rare], Y[rare]))]
    assert recalls[0] > recalls[1]
    with pytest.raises(ValueError, match="class_weight: expected a dict for partial_fit"):
        MLPClassifier(class_weight="balanced").partial_fit(X, Y, classes=range(10))
    with pytest.raises(ValueError, match=r"class_weight: expected entries >= 0, got -5\.0"):
        MLPClassifier(**QUICK, class_weight={3: -5.0}).fit(X, Y)


def test_class_weight_of_classes_that_a_batch_has_not() -> None:
    names = np.array(["zero", "one", "two"])
    few = Y < 2
    parts = MLPClassifier(**QUICK, class_weight={"two": 5.0, "one": 3.0}).partial_fit(X[few], names[Y[few]], classes=names)
    own = MLPClassifier(**QUICK).partial_fit(X[few], names[Y[few]], np.where(Y[few] == 1, 3.0, 1.0), classes=names)
    assert_same(parts, own)
    # of several labels the weights multiply
    some = Y_MANY[:, 2] == 0
    parts = MLPClassifier(**QUICK, class_weight=[{1: 3.0}, {0: 0.5}, {1: 9.0}]).partial_fit(
        X_MANY[some], Y_MANY[some], classes=[0, 1, 2])
    weight = np.where(Y_MANY[some, 0] == 1, 3.0, 1.0) * np.where(Y_MANY[some, 1] == 0, 0.5, 1.0)
    assert_same(parts, MLPClassifier(**QUICK).partial_fit(X_MANY[some], Y_MANY[some], weight, classes=[0, 1, 2]))


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble, ">f4", np.int8, object])
def test_numbers_of_any_dtype(dtype: Any) -> None:
    y = (10 * Y_REAL[:, 0]).astype(np.int8)
    expected = MLPRegressor(**QUICK).fit(X_REAL, y.astype(float))
    assert_same(expected, MLPRegressor(**QUICK).fit(X_REAL, y.astype(dtype)))


def test_the_penalty_of_huge_weights_is_finite() -> None:
    mlp = MLPRegressor(**SGD | {"learning_rate_init": 1e-9, "hidden_layer_sizes": ()}).partial_fit(X_REAL[:200], Y_REAL[:200])
    mlp.coefs_[0][...] = 1e25
    mlp.partial_fit(X_REAL[:200] / 1e25, Y_REAL[:200])      # of one batch: the penalty is that before it
    assert mlp.loss_ == pytest.approx(0.5 * 1e-4 / 200 * 30 * 1e50)


def test_written_weights_count() -> None:
    mlp = MLPClassifier(**QUICK).fit(X, Y)
    mlp.coefs_[0][...] = 0
    assert len(np.unique(mlp.predict(X))) == 1
    other = MLPClassifier(**QUICK).fit(X, Y)
    expected = other.predict_proba(X)
    mlp.coefs_ = [a.astype(np.float64) for a in other.coefs_]
    mlp.intercepts_[0], mlp.intercepts_[1], mlp.intercepts_[2] = other.intercepts_
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(mlp)).predict_proba(X), expected)
    np.testing.assert_array_equal(mlp.predict_proba(X), expected)
    mlp.coefs_[1] = np.zeros((3, 3))
    with pytest.raises(ValueError, match=r"coefs_\[1\]: expected shape \(20, 10\), got \(3, 3\)"):
        mlp.predict(X)


# ------------------------------------------------------------------------------------------------- what is refused

def test_refusals() -> None:
    for kind in (MLPClassifier, MLPRegressor):
        mlp = kind(solver="lbfgs")
        with pytest.raises(ValueError, match="solver: expected one of 'sgd', 'adam', got 'lbfgs', which scikit-learn has"):
            mlp.fit(X, Y)
        assert not hasattr(mlp, "partial_fit")
        for name, value in [("momentum", 1.0), ("activation", "swish"), ("dropout", 1.0), ("batch_norm", 2), ("init", "normal"),
                            ("callbacks", None), ("alpha", -1), ("dtype", 3)]:
            with pytest.raises(ValueError, match=f"The '{name}' parameter of {kind.__name__} must be"):
                kind(**{name: value}).fit(X, Y)
        with pytest.raises(TypeError, match="dtype: expected float32 or float64"):
            kind(dtype=np.int64).fit(X, Y)
        with pytest.raises(ValueError, match="hidden_layer_sizes must be > 0"):
            kind(hidden_layer_sizes=(5, 0)).fit(X, Y)
        with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
            kind(early_stopping=True).partial_fit(X, Y, **({"classes": range(10)} if kind is MLPClassifier else {}))
        with pytest.raises(NotFittedError):
            kind().predict(X)
        with pytest.raises(ValueError, match="sample_weight: expected"):
            kind().fit(X, Y, np.full(len(X), -1.0))
    with pytest.raises(ValueError, match="loss: expected one of 'squared_error', got 'poisson'"):
        MLPRegressor(loss="poisson").fit(X, Y)


def test_divergence() -> None:
    wild = SGD | {"learning_rate_init": 1e6, "activation": "identity", "max_iter": 50}
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
        MLPRegressor(**wild).fit(X_REAL, Y_REAL)
    with pytest.warns(ConvergenceWarning, match="The best ones are restored"):
        mlp = MLPRegressor(**wild, early_stopping=True).fit(X_REAL, Y_REAL)
    assert np.isnan(mlp.validation_scores_[-1]) and np.isnan(mlp.loss_) and len(mlp.loss_curve_) == mlp.n_iter_
    assert all(np.isfinite(a).all() for a in parameters(mlp))


def test_interrupted() -> None:
    def interrupt(run: Run) -> None:
        if run.epoch == 3:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="Training interrupted by user"):
        mlp = MLPClassifier(**QUICK, callbacks=[interrupt]).fit(X, Y)
    assert mlp.n_iter_ == len(mlp.loss_curve_) == 3
    assert_same(mlp, MLPClassifier(**QUICK | {"max_iter": 3}).fit(X, Y))


@pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")
def test_warning_of_max_iter() -> None:
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(6\) reached") as caught:
        MLPClassifier(**QUICK).fit(X, Y)
    assert caught[0].filename == __file__
    MLPClassifier(**QUICK | {"max_iter": 1000, "tol": 0.5, "n_iter_no_change": 2}).fit(X, Y)
    MLPClassifier(**QUICK).partial_fit(X, Y, classes=range(10))


# --------------------------------------------------------------------------------------------------- what is added

def test_network_of_the_options() -> None:
    mlp = MLPClassifier(
        **QUICK | {"max_iter": 20, "learning_rate_init": 0.02}, batch_norm=True, dropout=0.1, activation="leaky_relu",
        init="he_normal", dtype="float64").fit(X, Y)
    assert [type(layer).__name__ for layer in mlp._network.layers] == [
        "Dense", "BatchNorm", "Activation", "Dropout"] * 2 + ["Dense"]
    assert all(a.dtype == np.float64 for a in parameters(mlp))
    assert [a.shape for a in mlp.intercepts_] == [(20,), (10,), (10,)] and mlp.score(X, Y) > 0.8
    np.testing.assert_array_equal(mlp.intercepts_[0], mlp._network.layers[1].beta)
    # a last batch of one row is merged into the one before
    MLPClassifier(**QUICK, batch_norm=True, batch_size=100).fit(X[:101], Y[:101])
    # other starts have no intercepts
    still = MLPRegressor(init="lecun_uniform", learning_rate_init=1e-30, max_iter=1, random_state=3)
    start = clone(still).fit(X_REAL, Y_REAL)
    assert abs(start.intercepts_[0]).max() < 1e-25 and abs(start.coefs_[0]).max() <= np.sqrt(3 / 10)
    assert_same(start, clone(still).fit(X_REAL, Y_REAL))


def test_callbacks_of_fastnn() -> None:
    seen = []
    stop = EarlyStopping("val_loss", patience=0)
    mlp = MLPRegressor(
        **QUICK | {"max_iter": 500, "learning_rate_init": 0.03}, early_stopping=True, n_iter_no_change=500, batch_size=20,
        callbacks=[stop, lambda run: seen.append(run.record["val_loss"] / 2)]).fit(X_REAL, Y_REAL)
    assert mlp.n_iter_ < 500 and mlp.validation_loss_curve_ == seen
    # R squared of one output, from the loss
    one = MLPRegressor(**QUICK, early_stopping=True).fit(X_REAL, Y_REAL[:, 0])
    assert np.corrcoef(one.validation_loss_curve_, one.validation_scores_)[0, 1] == pytest.approx(-1, abs=1e-5)
    # not called by the step: nothing of the engine's speed is lost
    assert not any(type(own).on_step is not Callback.on_step or type(own).on_tick is not Callback.on_tick
                   for own in (ours._Epochs.__new__(ours._Epochs), ours._Theirs.__new__(ours._Theirs)))


class Watcher:
    """A callback by scikit-learn's protocol, which stops after the third epoch."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.scores: list[float] = []

    def setup(self, estimator: Any, context: Any) -> None:
        self.calls.append("setup")

    def teardown(self, estimator: Any, context: Any) -> None:
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        self.calls.append(f"begin {context.task_name} {context.task_id}")

    def on_fit_task_end(self, estimator: Any, context: Any, *, X: Any, y: Any, fitted_estimator: Any) -> bool:
        self.calls.append(f"end {context.task_name} {context.task_id}")
        self.scores.append(fitted_estimator.score(X, y))
        return context.task_name == "epoch" and context.task_id == 2


def test_callbacks_of_scikit_learn() -> None:
    callback = pytest.importorskip("sklearn.callback")
    watcher = Watcher()
    mlp = MLPClassifier(**QUICK | {"max_iter": 10}).set_callbacks(watcher).fit(X, Y)
    epochs = [f"{what} epoch {i}" for i in range(3) for what in ("begin", "end")]
    assert watcher.calls == ["setup", "begin fit 0", *epochs, "end fit 0", "teardown"]
    assert mlp.n_iter_ == 3 and watcher.scores[-1] == watcher.scores[-2] == mlp.score(X, Y) != watcher.scores[0]
    # those of scikit-learn itself, from above a pipeline and a search
    monitor = callback.ScoringMonitor(scoring="accuracy")
    grid = GridSearchCV(make_pipeline(StandardScaler(), MLPClassifier(**QUICK)), {"mlpclassifier__alpha": [0, 1]}, cv=2)
    grid.estimator[-1].set_callbacks(monitor)
    grid.fit(X[:400], Y[:400])
    assert len(grid.best_estimator_[-1].loss_curve_) == 6


# ---------------------------------------------------------------------------------------------------------- import

def test_import_of_fastnn_leaves_scikit_learn_alone() -> None:
    code = "import sys, fastnn; assert not {'sklearn', 'scipy', 'joblib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys; sys.modules['sklearn'] = None\ntry: import fastnn.sklearn\nexcept ImportError as error: print(error)"
    text = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert text == "fastnn.sklearn: needs scikit-learn >= 1.6, which is not installed; pip install 'fastnn[sklearn]'\n"


@pytest.mark.slow
def test_own_tests_of_scikit_learn() -> None:
    import sklearn_suite

    result = sklearn_suite.outcomes()
    unexpected = [name for name, passes in result.items() if not passes and sklearn_suite.reason(name) is None]
    shared = [passes for name, passes in result.items() if "lbfgs" not in (sklearn_suite.reason(name) or "")]
    assert not unexpected and sum(shared) >= 0.8 * len(shared) > 20
