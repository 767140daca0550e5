"""The plots hold the numbers they should, on axes that say what they are, and leave pyplot alone."""

import io
import subprocess
import sys

import numpy as np
import pytest
from conftest import assert_refused, assert_same_bits

import fastnn as fnn
from fastnn import plots
from fastnn.trace import SERIES, Trace

Figure = pytest.importorskip("matplotlib.figure").Figure


@pytest.fixture
def case(rng):
    net = fnn.Sequential([fnn.Dense(6, 9), fnn.BatchNorm(9), fnn.ReLU(), fnn.Dense(9, 8), fnn.Tanh(), fnn.Dense(8, 3)], seed=0)
    return net, rng.standard_normal((80, 6)), rng.integers(0, 3, 80)


@pytest.fixture
def history(case):
    net, x, y = case
    return net.fit(x, y, epochs=4, validation_data=(x, y))


def names(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_curves(history):
    ax = plots.curves(history)
    training, validation = ax.lines
    assert_same_bits(np.array(training.get_ydata(), np.float64), np.array(history.loss), "loss")
    assert [*validation.get_ydata()] == [epoch["val_loss"] for epoch in history.epochs]
    assert [*training.get_xdata()] == [1, 2, 3, 4]
    assert names(ax) == ["training", "validation"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "loss (mean over the rows)")
    assert training.get_color() == validation.get_color() and training.get_linestyle() != validation.get_linestyle()
    # a second training in the same axes
    assert plots.curves(history, label="second", ax=ax) is ax
    assert names(ax)[2:] == ["second, training", "second, validation"]
    assert ax.lines[2].get_color() != training.get_color()
    (accuracy,) = plots.curves(history, metric="accuracy").lines
    assert [*accuracy.get_ydata()] == [epoch["val_accuracy"] for epoch in history.epochs]
    for metric in ("lr", "seconds"):
        ax = plots.curves(history, metric=metric)
        assert [*ax.lines[0].get_ydata()] == [epoch[metric] for epoch in history.epochs] and ax.get_ylabel()


@pytest.mark.parametrize("what", SERIES)
def test_histograms(what, case):
    net, x, y = case
    ax = plots.histograms(net, x, y, what=what)
    series = Trace(net, x, y).series(what)
    assert [layer for layer, _ in series] == {"activations": [2, 4], "gradients": [1, 3], "weight_gradients": [0, 3]}[what]
    assert ax.get_yscale() == "log" and ax.get_ylabel() == "density"
    assert ax.get_xlabel().startswith(SERIES[what]) and (what == "activations" or "loss per unit" in ax.get_xlabel())
    for line, (layer, values), name in zip(ax.lines, series, names(ax), strict=True):
        zeros = np.mean(values == 0)
        assert name == f"layer {layer}" + (f" ({100 * zeros:.0f} % zeros)" if zeros > 0.005 else "")
        centres, density = line.get_data()
        # the area is the share of what is drawn, nearly all of it
        assert 0.9 < np.nansum(density) * (centres[1] - centres[0]) < 1.0001
        mean = np.nansum(density * centres) * (centres[1] - centres[0])
        kept = values[values != 0]
        assert abs(mean - kept.mean()) < 0.25 * kept.std()


def test_histograms_of_many_layers_name_some(rng):
    layers = [layer for _ in range(20) for layer in (fnn.Dense(5, 5), fnn.Tanh())]
    ax = plots.histograms(fnn.Sequential([*layers, fnn.Dense(5, 2)], seed=0), rng.standard_normal((50, 5)))
    assert len(ax.lines) == 20
    assert len(names(ax)) == 8 and names(ax)[0] == "layer 1" and names(ax)[-1] == "layer 39"


@pytest.mark.parametrize("what", SERIES)
def test_depth(what, case):
    net, x, y = case
    ax = plots.depth(net, x, y, what=what)
    series = [values.astype(np.float64) for _, values in Trace(net, x, y).series(what)]
    expected = [[values.std() for values in series]] if what == "activations" else [
        [np.sqrt(np.mean(values**2)) for values in series], [np.median(np.abs(values[values != 0])) for values in series]]
    for line, sizes in zip(ax.lines, expected, strict=True):
        np.testing.assert_allclose(line.get_ydata(), sizes, rtol=1e-6)
        assert [*line.get_xdata()] == [1, 2]
    low, high = ax.get_ylim()
    assert low <= np.min(expected) and np.max(expected) <= high and ax.get_yscale() == "log"
    assert ax.get_xlabel() == "layer, counted from the input" and ax.get_ylabel().startswith(SERIES[what])
    plots.depth(net, x, y, what=what, label="second", ax=ax)
    assert names(ax)[-1] == "second"


def test_signals_that_are_zero_or_not_finite_are_gaps(case, recwarn):
    net, x, y = case
    net.layers[3].weight[...] = 0
    assert np.isnan(plots.depth(net, x).lines[0].get_ydata()[1])
    plots.histograms(net, x)
    net.layers[3].weight[...] = np.inf
    for what in SERIES:
        for draw in (plots.depth, plots.histograms):
            draw(net, x, y, what=what).figure.savefig(io.BytesIO())
    assert not recwarn


def test_a_network_of_one_layer(rng):
    net = fnn.Sequential([fnn.Dense(4, 3)], seed=0)
    for what in SERIES:
        for draw in (plots.depth, plots.histograms):
            assert draw(net, rng.standard_normal((20, 4)), np.arange(20) % 3, what=what).lines


def test_refusals(case, history):
    net, x, _ = case
    assert_refused(ValueError, "metric", plots.curves, history, metric="accuracies")
    assert_refused(TypeError, "history", plots.curves, [])
    assert_refused(ValueError, "metric", plots.curves, fnn.History())
    assert_refused(ValueError, "what", plots.histograms, net, x, what="weights")
    assert_refused(TypeError, "y", plots.histograms, net, x, what="gradients")
    assert_refused(TypeError, "y", plots.depth, net, x, what="weight_gradients")
    assert_refused(TypeError, "net", plots.depth, None, x)


def test_pyplot_stays_out_and_figures_are_legible(case, history, tmp_path):
    net, x, y = case
    axes = [plots.curves(history), plots.depth(net, x), plots.histograms(net, x, y, what="gradients")]
    for ax in axes:
        assert isinstance(ax.figure, Figure)
        assert tuple(ax.figure.get_size_inches() * ax.figure.dpi) == (800, 450)
        assert min(text.get_fontsize() for text in (ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels())) >= 9
    axes[0].figure.savefig(tmp_path / "picture.png")
    code = (
        "import sys, fastnn as fnn, numpy as np; import fastnn.plots as plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "net = fnn.Sequential([fnn.Dense(3, 4), fnn.Tanh(), fnn.Dense(4, 2)])\n"
        "import matplotlib; before = matplotlib.rcParams.copy()\n"
        "plots.histograms(net, np.eye(3)); plots.depth(net, np.eye(3))\n"
        "assert 'matplotlib.pyplot' not in sys.modules and matplotlib.rcParams.copy() == before\n")
    subprocess.run([sys.executable, "-W", "error::DeprecationWarning:fastnn", "-c", code], check=True)


def test_without_matplotlib(case, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'fastnn\[plots\]'"):
        plots.depth(*case[:2])
