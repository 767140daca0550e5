"""What happens at the edges: one test for each kind of input that other libraries have stumbled over.

For the kernels, `Sequential`, the optimiser and the initialisers. How a kernel treats each of its arguments is in
test_contract.py; what only one of them can do wrong is in its own file.
"""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from conftest import DTYPES, FLOAT32, FLOAT64, LAYOUTS, NOT_IN_PLACE, as_matrix, assert_refused, assert_same_bits, normal, plain

import fastnn as fnn
from fastnn import SGD, BatchNorm, Dense, DivergedError, Dropout, ReLU, Sequential, init

NAN, INF = math.nan, math.inf
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def net(dtype=FLOAT32, layers=None, **options):
    return Sequential(layers or [Dense(5, 7, bias=False), BatchNorm(7), ReLU(), Dropout(0.2), Dense(7, 3)],
                      dtype=dtype, seed=0, **options)


def bits(network):
    """Everything that training has changed."""
    velocity = network._velocity
    return ({name: a.tobytes() for name, a in network.state_dict().items()}, None if velocity is None else velocity.tobytes(),
            network._step, network._epoch, str(network._rng.bit_generator.state))


def data(rng, dtype=FLOAT32, n=12):
    return normal(rng, dtype, n, 5), rng.integers(0, 3, n)


def vector(dtype, *numbers):
    return np.array(numbers, dtype)


def norm(x, **options):
    """gamma 1, beta 0 and running statistics."""
    d, dtype = x.shape[1], x.dtype
    return fnn.batchnorm_forward(x, np.ones(d, dtype), np.zeros(d, dtype), **options)


def kernels_of(x):
    return [lambda: norm(x), lambda: fnn.dense_forward(x, np.ones((5, 3), FLOAT32)), lambda: fnn.activation_forward(x, "relu")]


def refused_by(network, error, name, *calls):
    """Each call is refused with an error naming the argument, and the network is what it was."""
    before = bits(network)
    for call in calls:
        assert_refused(error, name, call)
        assert bits(network) == before


def trained_by(network, x, y, **options):
    """The ways to train: fit, one step, one look."""
    optimizer = SGD(lr=0.1, momentum=0.9)
    return [
        lambda: network.fit(x, y, batch_size=4, optimizer=optimizer, **options),
        lambda: network.train_step(x, y, optimizer),
        lambda: network.loss_and_gradients(x, y),
    ]


# ------------------------------------------------------------------------------------------------------ sizes

@every_dtype
def test_no_rows(rng, dtype):
    none = np.empty((0, 5), dtype)
    weight, gamma = normal(rng, dtype, 5, 3), np.ones(5, dtype)
    assert fnn.dense_forward(none, weight).shape == (0, 3)
    assert fnn.batchnorm_inference(none, gamma, gamma, gamma, gamma).shape == (0, 5)
    assert fnn.activation_forward(none, "relu").shape == (0, 5)
    dx, dweight, dbias = fnn.dense_backward(np.empty((0, 3), dtype), none, weight)
    assert dx.shape == (0, 5) and not dweight.any() and not dbias.any()
    assert_refused(ValueError, "x", fnn.batchnorm_forward, none, gamma, gamma)
    assert_refused(ValueError, "logits", fnn.softmax_cross_entropy, none, np.empty(0, int))
    assert_refused(ValueError, "pred", fnn.mean_squared_error, none, none)
    network = net(dtype)
    assert network.predict(none).shape == (0,)
    assert network.forward(none).shape == network.predict_proba(none).shape == (0, 3)
    refused_by(network, ValueError, "x", *trained_by(network, none, np.empty(0, int)),
               lambda: network.forward(none, training=True), lambda: network.evaluate(none, np.empty(0, int)))


@pytest.mark.parametrize(("name", "call"), [
    ("in_features", lambda: Dense(0, 3)), ("out_features", lambda: Dense(3, 0)), ("num_features", lambda: BatchNorm(0)),
    ("shape", lambda: init.xavier_uniform((0, 3))), ("shape", lambda: init.orthogonal((3, 0))),
    ("x", lambda: norm(np.empty((4, 0), FLOAT32))),
    ("weight", lambda: fnn.dense_forward(np.empty((4, 0), FLOAT32), np.empty((0, 3), FLOAT32))),
    ("x", lambda: net().predict(np.empty((4, 0)))),
    ("logits", lambda: fnn.softmax_cross_entropy(np.empty((4, 0)), np.zeros(4, int))),
])
def test_no_columns(name, call):
    assert_refused(ValueError, name, call)


@pytest.mark.parametrize("last_batch", ["merge", "drop", "keep"])
def test_one_row_for_batch_norm(rng, last_batch):
    x, y = data(rng, n=9)
    running = np.zeros(5, FLOAT32), np.ones(5, FLOAT32)
    assert_refused(ValueError, "x", norm, x[:1], running_mean=running[0], running_var=running[1])
    network = net()
    refused_by(network, ValueError, "x", *trained_by(network, x[:1], y[:1]), lambda: network.forward(x[:1], training=True))
    # eight rows and one: the one goes into the batch before it, is left out, or is refused before anything has happened
    if last_batch == "keep":
        refused_by(network, ValueError, "x", lambda: network.fit(x, y, batch_size=4, last_batch=last_batch))
    else:
        network.fit(x, y, batch_size=4, epochs=3, last_batch=last_batch)
        assert all(np.isfinite(a).all() for a in network.state_dict().values())


def test_sizes_beyond_32_bits():
    # more numbers than 2^31, without the memory for them: rows that repeat
    rows = np.broadcast_to(np.arange(8, dtype=np.uint8), (2**29, 8))
    network = net(layers=[Dense(8, 2)])
    before = bits(network)
    with pytest.raises(ValueError, match=r"^y: expected shape \(536870912,\)"):
        network.fit(rows, np.zeros(7, int))
    assert bits(network) == before
    # more bytes than can be addressed
    for shape in [(2**40, 2**40), (2**62, 4)]:
        assert_refused(ValueError, "shape", init.zeros, shape)
    assert_refused(ValueError, "shape", init.xavier_uniform, (2**31, 2**31))


LIMITED = """
import resource, sys
import numpy as np
import fastnn as fnn
net = fnn.Sequential([fnn.Dense(64, 64), fnn.ReLU(), fnn.Dense(64, 2)], seed=0)
x, y = np.zeros((500_000, 64), np.uint8), np.zeros(500_000, int)
small = np.ones((4, 64), np.float32)
net.fit(x[:64], y[:64])
before = {name: a.tobytes() for name, a in net.state_dict().items()}
weight = np.ones((64, 64), np.float32)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (24 << 20), -1))
calls = [
    lambda: net.fit(x, y, batch_size=400_000), lambda: net.train_step(x, y, fnn.SGD()),
    lambda: net.loss_and_gradients(x, y), lambda: fnn.Sequential([fnn.Dense(5000, 5000)]),
    lambda: fnn.init.xavier_uniform((5000, 5000)), lambda: fnn.dense_forward(np.broadcast_to(small[:1], (500_000, 64)), weight),
    lambda: fnn.activation_forward(np.broadcast_to(small[:1], (500_000, 64)), "relu"),
]
for call in calls:
    try:
        call()
        print("no error", flush=True)
    except MemoryError:
        pass
    assert {name: a.tobytes() for name, a in net.state_dict().items()} == before
net.fit(x[:64], y[:64])
print(net.predict(small).shape)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and a limit of address space that holds")
def test_too_little_memory():
    run = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "(4,)\n", "")


# ------------------------------------------------------------------------------------------------------ values

@pytest.mark.parametrize("value", [0.0, 3.0, 1e8 / 3, -1e30, 1e-30, 5e-324])
@every_dtype
def test_constant_feature(rng, dtype, value):
    for n, eps in itertools.product((2, 7, 256), (1e-12, 1e-5, 1.0)):
        x = np.full((n, 3), value, dtype)
        gamma, beta = normal(rng, dtype, 3), normal(rng, dtype, 3)
        y, mean, rstd = fnn.batchnorm_forward(x, gamma, beta, eps=eps)
        assert_same_bits(y, np.broadcast_to(beta, y.shape).copy(), (n, eps))
        dx, dgamma, _ = fnn.batchnorm_backward(normal(rng, dtype, n, 3), x, gamma, mean, rstd)
        assert np.isfinite(dx).all() and not dgamma.any(), (n, eps)
        network = net(dtype, [BatchNorm(3, eps=eps), Dense(3, 2)])
        network.layers[0].beta = beta
        expected = beta @ network.layers[1].weight
        np.testing.assert_allclose(network.forward(x, training=True)[0], expected, rtol=1e-6, atol=1e-6)
        assert np.isfinite(network.layers[0].running_var).all()


@pytest.mark.parametrize("eps", [0, -1e-5, NAN, INF, 1e-60, 1e60, "1e-5", None, True, np.ones(1)])
def test_eps(eps):
    x, one = np.ones((4, 3), FLOAT32), np.ones(3, FLOAT32)
    error = ValueError if isinstance(eps, (int, float)) and not isinstance(eps, bool) else TypeError
    assert_refused(error, "eps", norm, x, eps=eps)
    assert_refused(error, "eps", fnn.batchnorm_inference, x, one, one, one, one, eps=eps)
    if eps in (1e-60, 1e60):        # > 0 and finite, but not in float32
        BatchNorm(3, eps=eps)
        assert_refused(error, "eps", lambda: net(layers=[BatchNorm(3, eps=eps), Dense(3, 2)]))
    else:
        assert_refused(error, "eps", lambda: BatchNorm(3, eps=eps))


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@every_dtype
def test_not_finite_in_one_column(rng, dtype, value):
    x, y = data(rng, dtype)
    clean, _, _ = norm(x)
    x[7, 2] = value
    out, mean, rstd = norm(x)
    assert np.isnan(out[:, 2]).all() and np.isnan(rstd[2]) and not np.isfinite(mean[2])
    others = [0, 1, 3, 4]
    assert_same_bits(out[:, others].copy(), clean[:, others].copy(), value)
    network = net(dtype, [BatchNorm(5), Dense(5, 3)])
    refused_by(network, ValueError, "x", lambda: network.fit(x, y, batch_size=12))
    with pytest.raises(ValueError, match=r"row 7, column 2"):
        network.fit(x, y, batch_size=4, shuffle=False)
    twin = net(dtype, [BatchNorm(5), Dense(5, 3)])
    twin.fit(x[:4], y[:4], batch_size=4, shuffle=False)
    assert {k: a.tobytes() for k, a in network.state_dict().items()} == {k: a.tobytes() for k, a in twin.state_dict().items()}
    # unchecked, statistics follow IEEE arithmetic, and only those of that column
    network = net(dtype, [BatchNorm(5), Dense(5, 3)])
    with pytest.raises(DivergedError):
        network.fit(x, y, batch_size=12, check_finite=False)
    network.forward(x, training=True)
    assert np.isnan(network.layers[0].running_var[2]) and np.isfinite(network.layers[0].running_var[others]).all()


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error"])
@every_dtype
def test_loss_that_is_not_finite(rng, dtype, loss):
    x, y = data(rng, dtype)
    network = net(dtype, [Dense(5, 3)], loss=loss)
    targets = y if loss == "softmax_cross_entropy" else normal(rng, dtype, 12, 3) if loss == "mean_squared_error" else (
        rng.random((12, 3)).astype(dtype))
    network.layers[0].weight[1, 1] = np.finfo(dtype).max
    x[:, 1] = 1e9
    before = bits(network)
    with pytest.raises(DivergedError):
        network.fit(x, targets, batch_size=4, epochs=2)
    assert isinstance(DivergedError(), ArithmeticError) and bits(network) == before


@every_dtype
def test_values_near_the_end_of_the_range(rng, dtype):
    x, y = data(rng, dtype)
    large = {FLOAT32: 1e30, FLOAT64: 1e150}[dtype]
    expected, *_ = norm(x, eps=1e-9)
    out, _, _ = norm((x.astype(np.longdouble) * large).astype(dtype), eps=1e-9)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)
    running = np.zeros(5, dtype), np.ones(5, dtype)
    too_large = x * dtype.type({FLOAT32: 1e30, FLOAT64: 1e200}[dtype])
    assert_refused(ValueError, "x", norm, too_large, running_mean=running[0], running_var=running[1])
    network = net(dtype, [BatchNorm(5), Dense(5, 3)])
    before = bits(network)
    with pytest.raises(DivergedError):
        network.fit(too_large, y, batch_size=12)
    assert bits(network) == before


@every_dtype
def test_subnormal_numbers(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.full((3, 4), 3 * tiny, dtype)
    assert (fnn.activation_forward(x, "relu") == 3 * tiny).all()
    assert (fnn.dense_forward(x, np.eye(4, dtype=dtype)) == 3 * tiny).all()
    param = np.zeros(9, dtype)
    fnn.sgd_update(param, np.full(9, tiny, dtype), lr=2.0)
    assert (param == -2 * tiny).all()
    network = net(dtype, [Dense(4, 2, bias=False)], loss="mean_squared_error")
    network.layers[0].weight = np.ones((4, 2))
    assert (network.forward(x) == 12 * tiny).all()


# ------------------------------------------------------------------------------------------------------ arrays

@pytest.mark.parametrize("layout", LAYOUTS)
@every_dtype
def test_layouts(rng, dtype, layout):
    x, y = data(rng, dtype)
    laid, copy = LAYOUTS[layout](x), plain(LAYOUTS[layout](x))
    weight = normal(rng, dtype, 5, 3)
    assert_same_bits(fnn.dense_forward(laid, weight), fnn.dense_forward(copy, weight), "dense")
    assert_same_bits(norm(laid), norm(copy), "batch norm")
    if layout in NOT_IN_PLACE:
        target = LAYOUTS[layout](np.zeros((12, 3), dtype))
        assert_refused(ValueError, "out", fnn.dense_forward, x, weight, out=target)
        assert_refused(ValueError, "param", fnn.sgd_update, target, np.zeros((12, 3), dtype), lr=0.1)
    networks = net(dtype), net(dtype)
    for network, rows in zip(networks, (laid, copy), strict=True):
        network.fit(rows, y, batch_size=4, epochs=2)
    assert bits(networks[0]) == bits(networks[1])
    assert_same_bits(networks[0].forward(laid), networks[1].forward(copy), "forward")


def test_read_only_arrays(rng):
    x, y = data(rng)
    for a in (x, y):
        a.flags.writeable = False
    net().fit(x, y)
    param = np.zeros((12, 5), FLOAT32)
    fnn.sgd_update(param, x, lr=0.1)
    param.flags.writeable = False
    assert_refused(ValueError, "param", fnn.sgd_update, param, x, lr=0.1)
    assert_refused(ValueError, "out", norm, x, out=param)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i4", "i8", "u8", "?"])
def test_integers_and_bool(rng, dtype):
    x = rng.integers(0, 2, (12, 5)).astype(dtype)
    y = rng.integers(0, 3, 12)
    for call in kernels_of(x):
        with pytest.raises(TypeError, match=r"^x: .*x\.astype\(numpy\.float32\)"):
            call()
    networks = net(), net()
    for network, rows in zip(networks, (x, x.astype(FLOAT32)), strict=True):
        network.fit(rows, y, batch_size=4)
    assert bits(networks[0]) == bits(networks[1])
    assert_same_bits(networks[0].forward(x), networks[1].forward(x.astype(FLOAT32)), dtype)
    assert networks[0].evaluate(x, y) == networks[1].evaluate(x.astype(FLOAT32), y)


@pytest.mark.parametrize("dtype", ["f2", "g", "c8", "O", "U3", "S3", "M8[s]", "m8[s]", "V8", [("a", "f4")]])
def test_other_dtypes(dtype):
    x = np.zeros((4, 5), dtype)
    network = net()
    for call in kernels_of(x):
        with pytest.raises(TypeError, match=r"^x: expected .*float32 or float64"):
            call()
    refused_by(network, TypeError, "x", *trained_by(network, x, np.zeros(4, int)), lambda: network.predict(x))
    assert_refused(TypeError, "param", fnn.sgd_update, x, np.zeros((4, 5), FLOAT32), lr=0.1)
    assert_refused(TypeError, "dtype", init.zeros, (3, 3), dtype=dtype)


def test_float32_with_float64(rng):
    x32, x64 = np.ones((4, 5), FLOAT32), np.ones((4, 5))
    for text in (
        assert_refused(TypeError, "weight", fnn.dense_forward, x32, np.ones((5, 3))),
        assert_refused(TypeError, "gamma", fnn.batchnorm_forward, x32, np.ones(5), np.ones(5)),
    ):
        assert "x and" in text
    assert "param and grad" in assert_refused(TypeError, "grad", fnn.sgd_update, x32, x64, lr=0.1)
    # data of a network is converted
    network, twin = net(), net()
    assert_same_bits(network.forward(x64 / 3), twin.forward((x64 / 3).astype(FLOAT32)), "forward")


@pytest.mark.parametrize(("value", "error"), [
    (np.ones(5, FLOAT32), ValueError), (np.ones((1, 2, 5), FLOAT32), ValueError), (np.float32(1), TypeError),
    ([[1.0] * 5] * 4, ValueError), (as_matrix(np.ones((4, 5), FLOAT32)), ValueError),
    (np.ma.masked_array(np.ones((4, 5), FLOAT32)), TypeError), (None, TypeError), ("text", TypeError),
], ids=["1-D", "3-D", "scalar", "list", "matrix", "masked", "None", "text"])
def test_other_kinds_of_array(value, error):
    weight = np.ones((5, 3), FLOAT32)
    network = net()
    # a scalar of NumPy is an array of no dimensions
    for kernel in (lambda: fnn.dense_forward(value, weight), lambda: fnn.batchnorm_forward(value, weight[:, 0], weight[:, 0])):
        assert_refused(ValueError if isinstance(value, np.float32) else error, "x", kernel)
    refused_by(network, ValueError if isinstance(value, np.float32) else error, "x",
               *trained_by(network, value, np.zeros(4, int)), lambda: network.predict(value))


def test_shapes_that_do_not_fit(rng):
    x, y = data(rng)
    text = assert_refused(ValueError, "weight", fnn.dense_forward, x, np.ones((4, 3), FLOAT32))
    assert "(12, 5)" in text and "(4, 3)" in text
    text = assert_refused(ValueError, "grad", fnn.sgd_update, np.zeros((3, 2), FLOAT32), np.zeros((2, 3), FLOAT32), lr=0.1)
    assert "(3, 2)" in text and "(2, 3)" in text and "param" in text
    assert_refused(ValueError, "beta", fnn.batchnorm_forward, x, np.ones(5, FLOAT32), np.ones(4, FLOAT32))
    network = net()
    refused_by(network, ValueError, "x", *trained_by(network, x[:, :4], y), lambda: network.predict(x[:, :4]))
    refused_by(network, ValueError, "y", *trained_by(network, x, y[:-1]))
    refused_by(network, ValueError, "0.weight", lambda: network.load_state_dict(
        network.state_dict() | {"0.weight": np.ones((7, 5))}))
    assert_refused(ValueError, "layers[1]", lambda: Sequential([Dense(3, 4), Dense(5, 2)]))


def test_overlap(rng):
    x = normal(rng, FLOAT32, 8, 5)
    memory = np.zeros(80, FLOAT32)
    whole, shifted = memory[:40].reshape(8, 5), memory[5:45].reshape(8, 5)
    whole[...] = x
    # element by element: the argument itself, but no part of it
    expected = norm(x)[0], fnn.activation_forward(x, "tanh")
    assert_same_bits(norm(whole, out=whole)[0], expected[0], "batch norm")
    whole[...] = x
    assert_same_bits(fnn.activation_forward(whole, "tanh", out=whole), expected[1], "tanh")
    for call in (lambda: norm(whole, out=shifted), lambda: fnn.activation_forward(whole, "tanh", out=shifted)):
        assert "x" in assert_refused(ValueError, "out", call)
    # products and updates: nothing
    square = np.ones((5, 5), FLOAT32)
    assert_refused(ValueError, "out", fnn.dense_forward, square, square.copy(), out=square)
    assert_refused(ValueError, "param", fnn.sgd_update, whole, whole, lr=0.1)
    assert_refused(ValueError, "velocity", fnn.sgd_update, whole, x, whole, lr=0.1, momentum=0.5)
    assert_refused(ValueError, "running_var", norm, x, running_mean=memory[:5], running_var=memory[:5])


# ------------------------------------------------------------------------------------------- labels and logits

@pytest.mark.parametrize(("labels", "text"), [
    (np.array([0, 1, 2, 3]), "got 3 at index 3"), (np.array([0, -1, 2, 0]), "got -1 at index 1"),
    (np.array([0, -100, 2, 0]), "got -100 at index 1"), (np.array([0, 1, 255, 0], np.uint8), "got 255 at index 2"),
    (np.array([0, 2**64 - 1, 1, 0], np.uint64), "got 18446744073709551615 at index 1"), (np.array([0, 1, 2]), "shape (4,)"),
    (np.array([0.0, 1.0, 2.0, 0.0]), "dtype float64"), (np.array([0, NAN, 1, 0]), "dtype float64"),
    (np.array([True, False, True, False]), "dtype bool"), (np.array([[0, 1, 2, 0]]), "got (1, 4)"),
])
def test_labels(labels, text):
    logits = np.ones((4, 3), FLOAT32)
    out = np.full((4, 3), np.nan, FLOAT32)
    assert text in assert_refused(ValueError, "labels", fnn.softmax_cross_entropy, logits, labels, dlogits=out)
    network = net()
    x = np.ones((4, 5), FLOAT32)
    refused_by(network, ValueError, "y", *trained_by(network, x, labels), lambda: network.evaluate(x, labels))


@every_dtype
def test_logits_of_any_size(dtype):
    labels = np.array([0])
    for row in ((INF, 0, 0), (NAN, 0, 0), (0, 0, NAN)):
        loss, _ = fnn.softmax_cross_entropy(vector(dtype, *row)[None], labels)
        assert math.isnan(loss), row
    loss, gradient = fnn.softmax_cross_entropy(vector(dtype, 1, -INF, 1)[None], labels)
    assert loss == pytest.approx(math.log(2)) and gradient[0, 1] == 0
    loss, _ = fnn.softmax_cross_entropy(vector(dtype, -INF, 0, 1)[None], labels)
    assert loss == INF
    huge = {FLOAT32: 3e38, FLOAT64: 1e308}[dtype]
    for row, expected in (((huge, -huge, 0), 0.0), ((-huge, huge, 0), 2 * float(dtype.type(huge)))):
        loss, gradient = fnn.softmax_cross_entropy(vector(dtype, *row)[None], labels)
        assert np.isfinite(gradient).all() and loss == expected


# ---------------------------------------------------------------------------------------------- hyper-parameters

BAD_NUMBERS = [(NAN, ValueError), (INF, ValueError), (-0.1, ValueError), ("0.1", TypeError), (True, TypeError),
               (np.ones(1), TypeError), (None, TypeError)]


@pytest.mark.parametrize(("lr", "error"), BAD_NUMBERS)
def test_learning_rate(rng, lr, error):
    param = np.ones(3, FLOAT32)
    assert_refused(error, "lr", fnn.sgd_update, param, param.copy(), lr=lr)
    assert_refused(error, "lr", SGD, lr)


def test_learning_rate_zero_moves_the_velocity_only(rng):
    param, velocity, grad = (normal(rng, FLOAT32, 9) for _ in range(3))
    before = param.copy()
    expected = np.float32(0.5) * velocity + grad
    fnn.sgd_update(param, grad, velocity, lr=0, momentum=0.5)
    assert_same_bits(param, before, "param")
    np.testing.assert_allclose(velocity, expected, rtol=1e-6)
    x, y = data(rng)
    network = net(layers=[Dense(5, 3)])
    state = network.state_dict()
    network.fit(x, y, optimizer=SGD(0, momentum=0.5))
    assert all(a.tobytes() == state[name].tobytes() for name, a in network.state_dict().items())
    assert network._velocity.any()


@pytest.mark.parametrize(("momentum", "error"), [*BAD_NUMBERS, (1.0, ValueError), (1.5, ValueError)])
def test_momentum(momentum, error):
    param = np.ones(3, FLOAT32)
    assert_refused(error, "momentum", fnn.sgd_update, param, param.copy(), np.zeros(3, FLOAT32), lr=0.1, momentum=momentum)
    assert_refused(error, "momentum", SGD, momentum=momentum)
    if momentum != 1.0 or momentum is True:     # of batch norm it is the weight of the new value, in [0, 1]
        assert_refused(error, "momentum", BatchNorm, 3, momentum=momentum)
        assert_refused(error, "momentum", norm, np.ones((4, 3), FLOAT32), momentum=momentum)
    assert_refused(ValueError, "nesterov", SGD, nesterov=True)
    assert_refused(ValueError, "nesterov", fnn.sgd_update, param, param.copy(), lr=0.1, nesterov=True)


@pytest.mark.parametrize(("decay", "error"), BAD_NUMBERS)
def test_weight_decay(decay, error):
    param = np.ones(3, FLOAT32)
    assert_refused(error, "weight_decay", fnn.sgd_update, param, param.copy(), lr=0.1, weight_decay=decay)
    assert_refused(error, "weight_decay", SGD, weight_decay=decay)


@every_dtype
def test_gradient_that_is_not_finite(rng, dtype):
    # the kernel follows IEEE arithmetic, and touches nothing beside
    param, grad = normal(rng, dtype, 9), normal(rng, dtype, 9)
    expected = param - dtype.type(0.1) * grad
    grad[4] = NAN
    fnn.sgd_update(param, grad, lr=0.1)
    assert np.isnan(param[4])
    np.testing.assert_allclose(np.delete(param, 4), np.delete(expected, 4), rtol=1e-6)
    # training looks at it
    network = net(dtype, [Dense(2, 1)], loss="mean_squared_error")
    large = {FLOAT32: 1e20, FLOAT64: 1e160}[dtype]
    x, y = np.array([[1.0, large]] * 4, dtype), np.full((4, 1), large, dtype)
    network.layers[0].weight[...] = 0
    before = bits(network)
    with pytest.raises(DivergedError):
        network.train_step(x, y, SGD(0.1, clip_norm=1.0))
    assert bits(network) == before


def test_gradient_of_another_parameter():
    param = np.zeros((3, 2), FLOAT32)
    for grad, error in (
        (np.zeros((2, 3), FLOAT32), ValueError), (np.zeros(6, FLOAT32), ValueError), (np.zeros((3, 2)), TypeError),
        (None, TypeError),
    ):
        assert_refused(error, "grad", fnn.sgd_update, param, grad, lr=0.1)
    assert_refused(ValueError, "velocity", fnn.sgd_update, param, param + 1, lr=0.1, momentum=0.5)


def test_backward_is_given_what_it_needs(rng):
    # no hidden cache that could be missing or stale: the statistics are arguments, and must be those of a forward pass
    x, gamma = normal(rng, FLOAT32, 8, 5), np.ones(5, FLOAT32)
    _, mean, rstd = norm(x)
    for name, wrong, error in (("mean", None, TypeError), ("rstd", None, TypeError), ("mean", mean.astype(FLOAT32), TypeError),
                               ("rstd", rstd[:4], ValueError)):
        given = {"mean": mean, "rstd": rstd} | {name: wrong}
        assert_refused(error, name, fnn.batchnorm_backward, x, x.copy(), gamma, **given)


def test_negative_running_variance():
    network = net()
    state = network.state_dict()
    bad = state["1.running_var"].copy()
    bad[2] = -1e-3
    refused_by(network, ValueError, "1.running_var", lambda: network.load_state_dict(state | {"1.running_var": bad}))
    x, one = np.ones((2, 7), FLOAT32), np.ones(7, FLOAT32)
    assert_refused(ValueError, "running_var", fnn.batchnorm_inference, x, one, one, one, bad)


@pytest.mark.parametrize("name", ["xavier_uniform", "xavier_normal"])
@every_dtype
def test_xavier(dtype, name):
    make = getattr(init, name)
    for gain, error in ((NAN, ValueError), (INF, ValueError), (-1.0, ValueError), ("1", TypeError), (True, TypeError)):
        assert_refused(error, "gain", make, (3, 4), gain=gain)
    for shape, error in (
        ((3,), ValueError), (3, ValueError), ((0, 3), ValueError), ((3, 0), ValueError), ((-1, 3), ValueError),
        ((3, 4, 5), ValueError), ("34", TypeError), ((3.0, 4), TypeError),
    ):
        assert_refused(error, "shape", make, shape)
    before = str(np.random.get_state())     # noqa: NPY002
    a, b = make((300, 200), rng=7, dtype=dtype), make((300, 200), rng=7, dtype=dtype)
    assert_same_bits(a, b, "seed")
    assert str(np.random.get_state()) == before     # noqa: NPY002
    if name == "xavier_uniform":
        assert np.abs(a).max() <= math.sqrt(6 / 500)
