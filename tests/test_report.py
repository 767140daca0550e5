"""The report is one well-formed page that loads nothing and says what there is to say."""

import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import assert_refused, assert_same_bits

import fastnn as fnn
from fastnn import svg

VOID = ("meta", "path")


class Page(HTMLParser):
    """Checks that tags close in order; collects the text, tags and attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def text(self):
        return " ".join("".join(self.texts).split())


@pytest.fixture
def case(rng):
    net = fnn.Sequential(
        [fnn.Dense(6, 9, bias=False), fnn.BatchNorm(9), fnn.ReLU(), fnn.Dense(9, 8), fnn.Tanh(), fnn.Dense(8, 3)], seed=0)
    return net, rng.standard_normal((80, 6)), rng.integers(0, 3, 80)


def page(path):
    return Page(path.read_text(encoding="utf-8"))


def test_everything(case, tmp_path):
    net, x, y = case
    history = net.fit(x, y, epochs=5, validation_data=(x, y), optimizer=fnn.SGD(lr=0.125, momentum=0.75))
    net.layers[3].bias[...] = 50        # a finding
    assert fnn.report(net, history, tmp_path / "r.html", x=x, y=y) is None
    result = page(tmp_path / "r.html")
    text = result.text()
    for heading in ("Findings", "Architecture", "Training", "Layers", "Signals by depth", "Histograms", "Configuration"):
        assert heading in text
    diagnosis = fnn.diagnose(net, x, y)
    assert "saturated" in [finding.name for finding in diagnosis.findings]
    assert all(finding.message in text for finding in diagnosis.findings)
    assert diagnosis.summary() in text
    assert "Dense(6, 9, bias=False)" in text and "BatchNorm(9)" in text and f"{net.n_parameters:,} parameters" in text
    assert f"{history.loss[2]:.4g}" in text and "5 epochs" in text
    assert "SGD(lr=0.125, momentum=0.75" in text and fnn.__version__ in text and np.__version__ in text
    # two curves, three signals, and two histograms of each
    assert result.tags.count("svg") == 2 + 3 + 6
    labels = [value for name, value in result.attributes if name == "aria-label"]
    assert "loss, mean over the rows by epoch" in labels and "accuracy, share of the rows by epoch" in labels


def test_it_loads_nothing(case, tmp_path):
    net, x, y = case
    fnn.report(net, net.fit(x, y, epochs=2), tmp_path / "r.html", x=x, y=y)
    result = page(tmp_path / "r.html")
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(result.tags)
    assert not {"src", "href", "xlink:href", "srcset", "onload", "onclick"} & {name for name, _ in result.attributes}
    text = (tmp_path / "r.html").read_text()
    assert not re.search(r"https?:|url\(|@import", text)
    assert "default-src 'none'" in text


def test_without_data_or_history(case, tmp_path):
    net, x, y = case
    fnn.report(net, None, tmp_path / "r.html")
    text = page(tmp_path / "r.html").text()
    assert "Architecture" in text and "none yet" in text
    assert not any(heading in text for heading in ("Findings", "Training", "Histograms"))
    fnn.report(net, fnn.History(), str(tmp_path / "r.html"), x=x, y=y)
    assert "No epoch." in page(tmp_path / "r.html").text()
    history = net.fit(x, y)
    fnn.report(net, history, tmp_path / "r.html")
    assert "1 epoch," in page(tmp_path / "r.html").text()
    one = fnn.Sequential([fnn.Dense(6, 3)], seed=0)
    fnn.report(one, None, tmp_path / "r.html", x=x, y=y)
    assert "No findings." in page(tmp_path / "r.html").text()


def test_text_is_escaped(case, tmp_path):
    net, x, y = case
    history = net.fit(x, y, epochs=2)
    bad = "</td><script>alert('1')</script>&amp;\"é"
    for i, epoch in enumerate(history.epochs):
        epoch[bad] = i + 0.5
        epoch["note"] = bad
    fnn.report(net, history, tmp_path / "r.html", x=x, y=y, title=bad)
    result = page(tmp_path / "r.html")
    assert "script" not in result.tags
    assert result.text().count(bad) == 6       # two titles, an axis, a heading and two cells
    assert ("aria-label", f"{bad} by epoch") in result.attributes
    assert Page(svg.lines([(bad, False, [(1, 2.0)])], bad, "loss")).text().count(bad) == 2


def test_numbers_that_are_not_finite_are_gaps(case, tmp_path, recwarn):
    net, x, y = case
    history = net.fit(x, y, epochs=4)
    history.epochs[1]["loss"], history.epochs[2]["loss"] = float("nan"), float("inf")
    net.layers[3].weight[0, 0] = np.nan
    fnn.report(net, history, tmp_path / "r.html", x=x, y=y)
    result = page(tmp_path / "r.html")
    assert "layer 3: NaN or infinity in its weight" in result.text()
    assert not [value for name, value in result.attributes if name == "d" and ("nan" in value or "inf" in value)]
    assert not recwarn


def test_long_and_flat_curves(tmp_path, case):
    net = case[0]
    history = fnn.History()
    for losses in ([1e-3 * 0.5**k for k in range(60)], [2.3] * 5, [2.3, 2.3 + 1e-9], [0.0, 0.0], [-5.0, 1e9], [1e-300, 1e300]):
        history.epochs = [{"epoch": k + 1, "loss": loss, "lr": 0.1} for k, loss in enumerate(losses)]
        fnn.report(net, history, tmp_path / "r.html")
        text = (tmp_path / "r.html").read_text()
        for u, v in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", text):
            assert 0 <= float(u) <= 380 and 0 <= float(v) <= 230
        marks = re.findall(r'text-anchor="end">([^<]*)</text>', text)
        assert len(set(marks)) == len(marks) <= 12, marks
        assert bool(marks) == (max(losses) > min(losses))


def test_nothing_of_the_network_changes(case, tmp_path):
    net, x, y = case
    history = net.fit(x, y)
    before = net.state_dict()
    fnn.report(net, history, tmp_path / "r.html", x=x, y=y)
    assert_same_bits([*net.state_dict().values()], [*before.values()], "state")


def test_refusals(case, tmp_path):
    net, x, y = case
    path = tmp_path / "r.html"
    assert_refused(TypeError, "net", fnn.report, None, None, path)
    assert_refused(TypeError, "history", fnn.report, net, [], path)
    assert_refused(ValueError, "x", fnn.report, net, None, path, y=y)
    assert_refused(ValueError, "y", fnn.report, net, None, path, x=x)
    assert_refused(ValueError, "y", fnn.report, net, None, path, x=x, y=y[:-1])
    assert_refused(TypeError, "title", fnn.report, net, None, path, title=3)
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        fnn.report(net, None, tmp_path / "missing" / "r.html")


def test_it_needs_no_matplotlib(case, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    net, x, y = case
    fnn.report(net, net.fit(x, y), tmp_path / "r.html", x=x, y=y)
