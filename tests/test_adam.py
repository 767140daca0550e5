"""The update of Adam, by itself and in a network, and against other libraries."""

import itertools

import numpy as np
import pytest
from conftest import (
    DTYPES,
    EPS,
    FLOAT32,
    FLOAT64,
    SIZES,
    assert_near_each,
    assert_refused,
    assert_same_bits,
    normal,
)

import fastnn as fnn
from fastnn import adam_update, reference

SHAPES = [(), *((n,) for n in SIZES), (3, 5), (2, 3, 7), (64, 129), (4099,), (100_003,)]
OPTIONS = [
    {"beta1": beta1, "beta2": beta2, "eps_hat": eps_hat, "weight_decay": decay, "decoupled": decoupled}
    for (beta1, beta2), eps_hat, (decay, decoupled) in itertools.product(
        [(0.9, 0.999), (0.0, 0.5), (0.5, 0.0)], (False, True), [(0.0, False), (1e-2, False), (1e-2, True)])
]


def arguments(rng, dtype, *shape):
    """param, grad, m and v"""
    param, grad, m, v = (normal(rng, dtype, *shape) for _ in range(4))
    np.square(v, out=v)
    return param, grad, m, v


# ---- equal to the reference

@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ", ".join(map(str, o.values())))
def test_equals_reference(rng, options, dtype):
    for shape, (lr, step, eps) in itertools.product(SHAPES, [(0.1, 1, 1e-8), (1.0, 10, 0.1), (0.0, 1000, 1e-8)]):
        param, grad, m, v = arguments(rng, dtype, *shape)
        expected = [param.copy(), m.copy(), v.copy()]
        before = [a.copy() for a in expected]
        read_only = grad.copy()
        read_only.flags.writeable = False
        assert adam_update(param, read_only, m, v, lr=lr, step=step, eps=eps, **options) is None
        reference.adam_update(expected[0], grad, *expected[1:], lr=lr, step=step, eps=eps, **options)
        # decay may take some of the gradient away, and so may the gradient of the moment, but not what they lose
        g = np.abs(grad) + options["weight_decay"] * np.abs(before[0])
        first, second = np.abs(before[1]) + g, before[2] + g**2
        correction = 1 - options["beta2"] ** step if not options["eps_hat"] else 1
        size = first * (1 + second / v) / (np.sqrt(v) + eps * np.sqrt(correction)) / (1 - options["beta1"] ** step)
        case = shape, lr, step
        assert_near_each(m, expected[1], 2, case, first)
        assert_near_each(v, expected[2], 3, case, second)
        assert_near_each(param, expected[0], 3, case, np.abs(before[0]) + lr * size)
        assert_same_bits(read_only, grad, case)
        if lr == 0:
            assert_same_bits(param, before[0], case)
            assert not shape or not (m == before[1]).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_by_hand(dtype):
    def update(param, grad, m, v, **options):
        arrays = [np.array([a], dtype) for a in (param, grad, m, v)]
        adam_update(*arrays, **{"lr": 0.25, "beta1": 0.5, "beta2": 0.75, "eps": 1.0} | options)
        assert arrays[1] == grad
        return [float(a[0]) for a in (arrays[0], *arrays[2:])]

    # first step: the corrected moments are the gradient and its square
    assert update(1, 2, 0, 0, step=1) == pytest.approx([1 - 0.25 * 2 / (2 + 1), 1, 1])
    # eps beside the root that is not corrected, which is half of the other
    assert update(1, 2, 0, 0, step=1, eps_hat=True) == pytest.approx([1 - 0.25 * 2 / (2 + 2), 1, 1])
    # second step
    m, v = 0.5 * 3 + 0.5 * 2, 0.75 * 5 + 0.25 * 4
    mhat, vhat = m / (1 - 0.5**2), v / (1 - 0.75**2)
    assert update(1, 2, 3, 5, step=2) == pytest.approx([1 - 0.25 * mhat / (vhat**0.5 + 1), m, v])
    # coupled decay is part of the gradient
    assert update(1, 2, 0, 0, step=1, weight_decay=2.0) == pytest.approx([1 - 0.25 * 4 / (4 + 1), 2, 4])
    # decoupled decay goes beside it
    assert update(1, 2, 0, 0, step=1, weight_decay=2.0, decoupled=True) == pytest.approx([1 - 0.25 * 2 / 3 - 0.25 * 2, 1, 1])
    # where nothing has come yet, nothing moves
    assert update(1, 0, 0, 0, step=1) == [1, 0, 0]
    # a rate of 0 still updates the moments
    assert update(1, 2, 0, 0, step=1, lr=0) == [1, 1, 1]


def test_as_the_paper_has_it(rng):
    """Algorithm 1 of Kingma & Ba, line by line."""
    theta, m, v = rng.standard_normal(20), np.zeros(20), np.zeros(20)
    param, own_m, own_v = theta.copy(), m.copy(), v.copy()
    alpha, beta1, beta2, epsilon = 0.01, 0.9, 0.999, 1e-3
    for t in range(1, 50):
        g = rng.standard_normal(20) * 1e-2
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        mhat, vhat = m / (1 - beta1**t), v / (1 - beta2**t)
        theta = theta - alpha * mhat / (np.sqrt(vhat) + epsilon)
        adam_update(param, g, own_m, own_v, lr=alpha, step=t, eps=epsilon)
    np.testing.assert_allclose(param, theta, rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gradient_that_stays_is_followed_at_the_rate(dtype):
    """Whatever its size, from the first step to when the moments have forgotten where they began: there is no bias."""
    grad = np.array([1e-3, -1.0, 700.0], dtype)
    param, m, v = (np.zeros(3, dtype) for _ in range(3))
    for step in range(1, 5001):
        before = param.copy()
        adam_update(param, grad, m, v, lr=0.5, step=step, eps=1e-25)
        if step in (1, 2, 100, 5000):
            np.testing.assert_allclose((before - param) / np.sign(grad), 0.5, rtol=4 * EPS[dtype] * (1 + np.abs(before).max()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_step_is_never_far_beyond_the_rate(rng, dtype):
    """Section 2.1 of Kingma & Ba: |step| <= lr max(1, (1 - beta1) / sqrt(1 - beta2)), if gradients jump."""
    param, m, v = (np.zeros(300, dtype) for _ in range(3))
    for step in range(1, 200):
        before = param.copy()
        grad = (rng.standard_normal(300) * 10.0 ** rng.integers(-6, 6, 300)).astype(dtype)
        adam_update(param, grad, m, v, lr=1e-3, step=step)
        assert np.abs(param - before).max() <= 1e-3 * max(1, 0.1 / np.sqrt(0.001)) * (1 + 1e-3)


def test_the_longest_step():
    """If they grow, by beta2 / beta1 each time, it is that of the Cauchy-Schwarz inequality for both sums."""
    param, m, v = (np.zeros(1) for _ in range(3))
    longest = 0.0
    for step in range(12_000, 13_500):      # after many of gradient 0
        before = param[0]
        adam_update(param, np.array([1e-80 * (0.999 / 0.9) ** (step - 12_000)]), m, v, lr=1.0, step=step, eps=1e-200)
        longest = max(longest, before - param[0])
    np.testing.assert_allclose(longest, 0.1 / np.sqrt((1 - 0.999) * (1 - 0.81 / 0.999)), rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("decoupled", [False, True])
def test_finds_the_minimum(rng, dtype, decoupled):
    target = normal(rng, dtype, 50)
    param, m, v = (np.zeros(50, dtype) for _ in range(3))
    for step in range(1, 4001):
        adam_update(param, param - target, m, v, lr=0.1 * 0.997**step, step=step, weight_decay=0.0, decoupled=decoupled)
    np.testing.assert_allclose(param, target, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty(dtype):
    for shape in [(0,), (3, 0)]:
        adam_update(*(np.zeros(shape, dtype) for _ in range(4)), lr=0.1, step=1)


def test_tiny_and_huge_gradients(rng):
    for dtype, tiny in ((FLOAT32, 1e-30), (FLOAT64, 1e-200)):
        # whose square is nothing: eps decides
        param, m, v = (np.zeros(9, dtype) for _ in range(3))
        adam_update(param, np.full(9, tiny, dtype), m, v, lr=1.0, step=1, eps=1e-8)
        np.testing.assert_allclose(param, -tiny / 1e-8, rtol=1e-5)
        # whose square is infinite: no step, and the moment says why
        adam_update(param, np.full(9, 1 / tiny, dtype), m, v, lr=1.0, step=1)
        assert np.isfinite(param).all() and np.isinf(v).all()


# ---- contract (what all kernels have in common is in test_contract.py)

@pytest.mark.parametrize(("name", "error", "values"), [
    ("lr", ValueError, [-1e-9, np.nan, np.inf, 1e40]),          # the last is infinite in float32
    ("beta1", ValueError, [-0.1, 1, 1.0, np.nan, np.inf, 1 - 1e-9]),    # the last is 1 there
    ("beta2", ValueError, [-0.1, 1, 1.0, np.nan, np.inf, 1 - 1e-9]),
    ("eps", ValueError, [-1e-8, 0, 0.0, np.nan, np.inf, 1e40, 1e-60, 5e-45]),
    ("weight_decay", ValueError, [-1e-9, np.nan, np.inf, 1e40]),
    ("step", ValueError, [0, -1, 2**53 + 1, 10**400]),
    *[(name, TypeError, [None, "0.1", True, np.True_, 0.1j, [0.1], np.array(0.1), np.ones(3)])
      for name in ("lr", "beta1", "beta2", "eps", "weight_decay")],
    ("step", TypeError, [None, "1", True, 1.0, np.float64(1), [1], np.ones(1, int)]),
    ("eps_hat", TypeError, [None, 0, 1, "yes", np.ones(1, bool)]),
    ("decoupled", TypeError, [None, 0, 1, "yes", np.ones(1, bool)]),
])
def test_wrong_numbers(rng, name, error, values):
    for value in values:
        assert_refused(error, name, adam_update, *arguments(rng, FLOAT32, 4, 3), **{"lr": 0.1, "step": 1} | {name: value})


def test_numbers_may_be_of_any_real_type(rng):
    arrays = arguments(rng, FLOAT32, 4, 3)
    results = []
    for number, whole in [(float, int), (np.float64, np.int64), (np.float32, np.uint8)]:
        copies = [a.copy() for a in arrays]
        adam_update(*copies, lr=number(0.125), step=whole(2), beta1=number(0.5), beta2=number(0.75), eps=number(0.25),
                    eps_hat=np.True_, weight_decay=number(0.5), decoupled=np.False_)
        results.append(copies)
    assert_same_bits(results[1], results[0], "float64")
    assert_same_bits(results[2], results[0], "float32")


def test_the_first_step_has_something_to_divide_by(rng):
    """Also the smallest eps that is taken: what is zero stays so."""
    cases = (FLOAT32, 1e-42, 0.999), (FLOAT32, 1e-44, 0.0), (FLOAT64, 1e-300, 1 - 1e-16), (FLOAT64, 1e-322, 0.999)
    for dtype, eps, beta2 in cases:
        param, grad, m, v = (np.zeros(9, dtype) for _ in range(4))
        adam_update(param, grad, m, v, lr=0.1, step=1, eps=eps, beta2=beta2)
        assert not param.any(), (dtype, eps)


def test_overlap(rng):
    memory = normal(rng, FLOAT32, 8, 3)
    param, part = memory[:4], memory[2:6]
    one, two = (normal(rng, FLOAT32, 4, 3) for _ in range(2))
    for same in (param, param[:], part):
        assert "grad" in assert_refused(ValueError, "param", adam_update, param, same, one, two, lr=0.1, step=1)
        assert "param" in assert_refused(ValueError, "m", adam_update, param, one, same, two, lr=0.1, step=1)
        assert "param" in assert_refused(ValueError, "v", adam_update, param, one, two, same, lr=0.1, step=1)
        assert "grad" in assert_refused(ValueError, "m", adam_update, one, param, same, two, lr=0.1, step=1)
        assert "m" in assert_refused(ValueError, "v", adam_update, one, two, param, same, lr=0.1, step=1)
    # neighbours do not overlap
    adam_update(memory[:2], memory[2:4], memory[4:6], memory[6:] ** 2, lr=0.1, step=1)


def test_not_finite_numbers_stay_where_they_are(rng):
    for dtype, value in itertools.product(DTYPES, (np.nan, np.inf)):
        arrays = arguments(rng, dtype, 20)
        clean = [a.copy() for a in arrays]
        adam_update(*clean, lr=0.1, step=3)
        arrays[1][7] = value
        adam_update(*arrays, lr=0.1, step=3)
        assert not np.isfinite([a[7] for a in arrays]).any()
        others = np.arange(20) != 7
        assert_same_bits([a[others] for a in arrays], [a[others] for a in clean], value)


# ---- against other libraries

STEPS = 100


def gradients(rng, dtype):
    """Of parameters of very different sizes, some of them 0 now and then."""
    sizes = 10.0 ** rng.integers(-5, 3, 40)
    return [(rng.standard_normal(40) * sizes * (rng.random(40) < 0.8)).astype(dtype) for _ in range(STEPS)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(FLOAT32, 1e-6), (FLOAT64, 1e-13)], ids=str)
@pytest.mark.parametrize(("decay", "decoupled"), [(0.0, False), (0.1, False), (0.1, True)])
def test_the_trajectory_of_pytorch(rng, decay, decoupled, dtype, tolerance):
    if decoupled and dtype == FLOAT32:
        tolerance *= 3      # it multiplies by 1 - lr * decay, rounded to float32, a hundred times
    torch = pytest.importorskip("torch")
    param = normal(rng, dtype, 40)
    theirs = torch.nn.Parameter(torch.from_numpy(param.copy()))
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind([theirs], lr=1e-2, betas=(0.9, 0.999), eps=1e-6, weight_decay=decay)
    m, v = np.zeros_like(param), np.zeros_like(param)
    for step, grad in enumerate(gradients(rng, dtype), 1):
        theirs.grad = torch.from_numpy(grad.copy())
        optimizer.step()
        adam_update(param, grad, m, v, lr=1e-2, step=step, eps=1e-6, weight_decay=decay, decoupled=decoupled)
    np.testing.assert_allclose(param, theirs.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(FLOAT32, 1e-6), (FLOAT64, 1e-13)], ids=str)
def test_the_trajectory_of_scikit_learn(rng, dtype, tolerance):
    """With ``eps_hat``: theirs is not damped as algorithm 1 is."""
    optimizers = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
    param = normal(rng, dtype, 40)
    theirs, other = param.copy(), param.copy()
    optimizer = optimizers.AdamOptimizer([theirs], learning_rate_init=1e-2, epsilon=1e-6)
    moments = [np.zeros_like(param) for _ in range(4)]
    for step, grad in enumerate(gradients(rng, dtype), 1):
        optimizer.update_params([theirs], [grad])
        adam_update(param, grad, *moments[:2], lr=1e-2, step=step, eps=1e-6, eps_hat=True)
        adam_update(other, grad, *moments[2:], lr=1e-2, step=step, eps=1e-6)
    np.testing.assert_allclose(param, theirs, rtol=tolerance, atol=tolerance)
    assert np.abs(other - theirs).max() > 1e-3


@pytest.mark.parametrize("decoupled", [False, True])
def test_a_network_of_pytorch_takes_the_same_way(rng, decoupled):
    torch = pytest.importorskip("torch")
    x, y = rng.standard_normal((64, 6)), rng.integers(0, 3, 64)
    net = fnn.Sequential([fnn.Dense(6, 16), fnn.Tanh(), fnn.Dense(16, 3)], dtype="float64", seed=0)
    theirs = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)).double()
    with torch.no_grad():
        for i in (0, 2):
            theirs[i].weight.copy_(torch.from_numpy(net.layers[i].weight.T.copy()))
            theirs[i].bias.copy_(torch.from_numpy(net.layers[i].bias.copy()))
    options = {"lr": 1e-2, "weight_decay": 0.05}
    optimizer = (torch.optim.AdamW if decoupled else torch.optim.Adam)(theirs.parameters(), **options)
    for _ in range(STEPS // 4):
        for rows in np.split(np.arange(64), 4):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x[rows])), torch.from_numpy(y[rows])).backward()
            optimizer.step()
    net.fit(x, y, epochs=STEPS // 4, batch_size=16, shuffle=False, optimizer=(fnn.AdamW if decoupled else fnn.Adam)(
        decay="all", **options))
    for i in (0, 2):
        np.testing.assert_allclose(net.layers[i].weight, theirs[i].weight.detach().numpy().T, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(net.layers[i].bias, theirs[i].bias.detach().numpy(), rtol=1e-6, atol=1e-9)
