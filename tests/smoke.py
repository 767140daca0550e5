"""What an installed fastnn must do, in a second, with nothing but NumPy: ``python tests/smoke.py``."""

from __future__ import annotations

import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np

import fastnn as fnn


def main() -> None:
    fnn.show_config()
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        assert not sys._is_gil_enabled(), "a compiled module has switched the GIL back on"    # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float64"):
        x = rng.standard_normal((256, 8))
        y = (x[:, 0] * x[:, 1] > 0).astype(int)
        nets = []
        for threads in (1, 2):
            net = fnn.Sequential(
                [fnn.Dense(8, 32, bias=False), fnn.BatchNorm(32), fnn.ReLU(), fnn.Dense(32, 32), fnn.Tanh(), fnn.Dense(32, 2)],
                dtype=dtype, seed=0)
            with fnn.num_threads(threads):
                net.fit(x, y, epochs=50, optimizer=fnn.SGD(lr=0.1, momentum=0.9))
            nets.append(net)
        net, other = nets
        for name, value in net.state_dict().items():
            assert np.array_equal(value, other.state_dict()[name]), f"{name} depends on the number of threads"
        accuracy = net.evaluate(x, y)["accuracy"]
        assert accuracy > 0.95, accuracy
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "net.safetensors")
            net.save(path)
            assert np.array_equal(fnn.load(path).predict(x), net.predict(x))
        a, b = rng.standard_normal((2, 70, 70)).astype(dtype)
        error = np.abs(fnn.dense_forward(a, b) - np.einsum("ij,jk", a, b)).max()
        assert error < (1e-4 if dtype == "float32" else 1e-12), error
        print(f"{dtype}: accuracy {accuracy:.3f}")
    print(fnn.__file__)


if __name__ == "__main__":
    main()
