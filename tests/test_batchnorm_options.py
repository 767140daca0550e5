"""Ghost batches, the conventions of the running statistics, and the statistics of a population."""

import copy
import functools
import pickle

import numpy as np
import pytest
from conftest import DTYPES, EPS, FLOAT32, FLOAT64, assert_gradient, assert_near, assert_refused, assert_same_bits, normal
from plain import Plain, groups

import fastnn as fnn
from fastnn import BatchNorm, Dense, Dropout, ReLU, Sequential, Tanh, reference

# rows, virtual_batch_size: whole groups, remainders, one group, groups of two, more than four rows at a time
SPLITS = [(12, 4), (13, 4), (15, 4), (7, 4), (8, 4), (4, 4), (3, 4), (2, 8), (9, 2), (300, 64), (300, 7)]


def network(dtype, size, *, loss="softmax_cross_entropy", ddof=1, width=9, **options):
    layers = [
        BatchNorm(5, virtual_batch_size=size, running_var_ddof=ddof, momentum=0.3), Dense(5, width, bias=False),
        BatchNorm(width, virtual_batch_size=size, running_var_ddof=ddof), Tanh(), Dense(width, 6),
        BatchNorm(6, running_var_ddof=1 - ddof), ReLU(), Dense(6, 3)]
    net = Sequential(layers, loss=loss, dtype=dtype, seed=0, **options)
    rng = np.random.default_rng(5)
    net.load_state_dict({
        name: a + rng.uniform(0, 0.5, a.shape) if name.endswith(("gamma", "beta", "mean", "var")) else a
        for name, a in net.state_dict().items()})
    return net


def data(rng, dtype, n):
    return (normal(rng, dtype, n, 5) * 2 + 3).astype(dtype), rng.integers(0, 3, n)


# ------------------------------------------------------------------------------------------------------- ghost batches

@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "size"), SPLITS)
def test_each_group_is_normalised_by_its_own_statistics(n, size, dtype, rng):
    x = normal(rng, dtype, n, 5) * 3 + 1
    layer = BatchNorm(5, virtual_batch_size=size, momentum=0.25)
    last = Dense(5, 5, bias=False, init=np.eye(5))
    net = Sequential([layer, last], dtype=dtype, loss="mean_squared_error")
    out = net.forward(x, training=True)
    mean, var = np.zeros(5, dtype), np.ones(5, dtype)
    for rows in groups(layer, n):
        assert rows.stop - rows.start >= 2 or n == 1
        part, _, _ = reference.batchnorm_forward(x[rows], layer.gamma, layer.beta, mean, var, momentum=0.25)
        assert_near(out[rows], part, 16, f"rows {rows}")
    assert_near(np.array(layer.running_mean), mean, 8, "running mean, moved once for each group")
    assert_near(np.array(layer.running_var), var, 40, "running variance")


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "size"), SPLITS)
def test_training_is_that_of_plain_numpy_for_each_group(n, size, dtype, ddof, rng):
    x, y = data(rng, dtype, n)
    net = network(dtype, size, ddof=ddof)
    plain = Plain(net, FLOAT64)
    tolerance = 1e-9 if dtype == FLOAT64 else 2e-3
    before = net.state_dict()
    loss, gradients = net.loss_and_gradients(x, y)
    assert_same_bits(list(net.state_dict().values()), list(before.values()), "looking changes nothing")
    expected_loss, expected = Plain(net, FLOAT64).gradients(x, y)
    assert abs(loss - expected_loss) <= tolerance
    for name, g in gradients.items():
        scale = max(np.abs(g).max() for g in expected.values())
        np.testing.assert_allclose(g, expected[name], rtol=0, atol=tolerance * scale, err_msg=name)
    optimizer = fnn.SGD(lr=0.05, momentum=0.9)
    for _ in range(3):
        assert abs(net.train_step(x, y, optimizer) - plain.step(x, y, lr=0.05, momentum=0.9)) <= tolerance
    for name, a in net.state_dict().items():
        np.testing.assert_allclose(a, plain.state[name], rtol=tolerance, atol=tolerance, err_msg=name)


def test_fit_normalises_consecutive_rows_of_each_batch(rng):
    x, y = data(rng, FLOAT64, 50)
    net, twin = network(FLOAT64, 8), network(FLOAT64, 8)
    net.fit(x, y, batch_size=20, shuffle=False, optimizer=fnn.SGD(lr=0.1))
    optimizer = fnn.SGD(lr=0.1)
    for rows in (slice(0, 20), slice(20, 50)):
        twin.train_step(x[rows], y[rows], optimizer)
    assert_same_bits(list(net.state_dict().values()), list(twin.state_dict().values()), "two batches, of 20 and 30 rows")


@pytest.mark.parametrize(("n", "size"), [(9, 4), (11, 3), (6, 2)])
def test_gradients_by_differences(n, size, rng):
    x, y = data(rng, FLOAT64, n)
    net = network(FLOAT64, size, width=4)
    _, gradients = net.loss_and_gradients(x, y)
    for name, a in net._state():
        if name in gradients:
            assert_gradient(lambda: net.loss_and_gradients(x, y)[0], a, gradients[name], name)


def test_scale_and_shift_have_sums_over_the_groups_rounded_once(rng):
    """Thousands of groups: rounding each would show, and so would a float32 sum."""
    n = 6000
    x = normal(rng, FLOAT32, n, 1)
    net = Sequential([Dense(1, 1, init=np.ones((1, 1))), BatchNorm(1, virtual_batch_size=2)], loss="mean_squared_error")
    y = normal(rng, FLOAT32, n, 1) + 5
    _, gradients = net.loss_and_gradients(x, y)
    wide = Plain(net, FLOAT64)
    _, exact = wide.gradients(x, y)
    for name in ("1.gamma", "1.beta"):
        assert_near(gradients[name], exact[name].astype(FLOAT32), 2, name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(dtype, rng):
    x = normal(rng, dtype, 200, 40)
    y = rng.integers(0, 10, 200)
    states = []
    for threads in (1, 2, 3):
        with fnn.num_threads(threads):
            net = Sequential(
                [Dense(40, 300), BatchNorm(300, virtual_batch_size=16), Tanh(), Dense(300, 120),
                 BatchNorm(120, virtual_batch_size=7, running_var_ddof=0), Dense(120, 10)], dtype=dtype, seed=0)
            net.fit(x, y, epochs=2, batch_size=50, optimizer=fnn.SGD(lr=0.1, momentum=0.9))
            net.refresh_statistics(x, batch_size=30)
            states.append([*net.state_dict().values(), net.loss_and_gradients(x, y)[1]["4.gamma"]])
    for state in states[1:]:
        assert_same_bits(state, states[0], "threads")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [64, 33, 1000])
def test_a_batch_of_one_group_has_the_bits_of_a_whole_batch(size, dtype, rng):
    x, y = data(rng, dtype, 64)
    nets = [network(dtype, size), network(dtype, None)]
    for net in nets:
        net.fit(x, y, epochs=2, batch_size=64, optimizer=fnn.SGD(lr=0.1, momentum=0.5))
    assert_same_bits(*(list(net.state_dict().values()) for net in nets), "one group")


def test_a_wide_layer_of_many_groups(rng):
    """Wider than the block of features that a tile takes."""
    x = normal(rng, FLOAT32, 21, 8)
    y = normal(rng, FLOAT32, 21, 2)
    net = Sequential([Dense(8, 1100), BatchNorm(1100, virtual_batch_size=5), Dense(1100, 2)], loss="mean_squared_error", seed=0)
    _, gradients = net.loss_and_gradients(x, y)
    _, expected = Plain(net, FLOAT64).gradients(x, y)
    for name, g in gradients.items():
        np.testing.assert_allclose(g, expected[name], rtol=0, atol=1e-4 * np.abs(expected[name]).max() + 1e-6, err_msg=name)


def test_larger_batches_later_have_room_for_their_groups(rng):
    x, y = data(rng, FLOAT64, 40)
    net, twin = network(FLOAT64, 2), network(FLOAT64, 2)
    net.forward(x[:4], training=False)
    net.loss_and_gradients(x[:4], y[:4])
    small = net.memory(4)
    for rows in (40, 5):
        gradients = [list(a.loss_and_gradients(x[:rows], y[:rows])[1].values()) for a in (net, twin)]
        assert_same_bits(*gradients, f"{rows} rows after 4")
    # two float64 rows of statistics for each of the 18 more groups, of both layers that have some
    without = network(FLOAT64, None).memory(40) - network(FLOAT64, None).memory(4)
    assert net.memory(40) - small - without == pytest.approx(2 * 8 * 18 * (5 + 9), abs=8 * 64)


def test_a_copy_keeps_the_options(rng):
    x, y = data(rng, FLOAT32, 30)
    net = network(FLOAT32, 4, ddof=0)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert [(a.virtual_batch_size, a.running_var_ddof) for a in other.layers if isinstance(a, BatchNorm)] == [
            (4, 0), (4, 0), (None, 1)]
        twin = copy.copy(net)
        for a in (other, twin):
            a.train_step(x, y, fnn.SGD(lr=0.1))
        assert_same_bits(list(other.state_dict().values()), list(twin.state_dict().values()), "trained on")


def test_a_group_has_two_rows_at_least():
    for value in (1, 0, -4):
        assert_refused(ValueError, "virtual_batch_size", BatchNorm, 3, virtual_batch_size=value)
    for value in (2.0, True, "4"):
        assert_refused(TypeError, "virtual_batch_size", BatchNorm, 3, virtual_batch_size=value)
    assert BatchNorm(3).virtual_batch_size is None
    assert repr(BatchNorm(3, virtual_batch_size=np.int64(8))) == "BatchNorm(3, virtual_batch_size=8)"
    net = Sequential([BatchNorm(2, virtual_batch_size=4), Dense(2, 2)])
    assert_refused(ValueError, "x", net.forward, np.ones((1, 2)), training=True)
    assert_refused(ValueError, "x", net.fit, np.ones((9, 2)), np.zeros(9, int), batch_size=4, last_batch="keep")


def test_a_group_whose_statistics_are_not_finite_undoes_the_step(rng):
    """The row is in the last group; the first ones have moved the running statistics."""
    x, y = data(rng, FLOAT32, 24)
    net = network(FLOAT32, 4)
    x[22, 1] = 3e38
    x[23, 1] = -3e38
    before = net.state_dict()
    with pytest.raises(fnn.DivergedError):
        net.train_step(x, y, fnn.SGD(lr=0.1))
    assert_same_bits(list(net.state_dict().values()), list(before.values()), "undone")


# ----------------------------------------------------------------------------------------------------- conventions

@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_running_variances_of_two_rows_differ_by_a_factor_of_two(dtype, rng):
    """m = 2: unbiased / biased = m / (m - 1) = 2."""
    x = normal(rng, dtype, 2, 6)
    nets = [Sequential([BatchNorm(6, momentum=1.0, running_var_ddof=ddof), Dense(6, 2)], dtype=dtype) for ddof in (0, 1)]
    biased, unbiased = (net.forward(x, training=True) is not None and np.array(net.layers[0].running_var) for net in nets)
    assert_same_bits(unbiased, biased * 2, "a power of two is exact")
    np.testing.assert_allclose(biased, x.astype(float).var(axis=0), rtol=4 * EPS[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("m", [2, 3, 60, 128])
def test_conversion_of_running_variances(m, dtype, rng):
    x = normal(rng, dtype, m, 40)
    variance = {}
    for ddof in (0, 1):
        net = Sequential([BatchNorm(40, momentum=1.0, running_var_ddof=ddof), Dense(40, 2)], dtype=dtype)
        net.forward(x, training=True)
        variance[ddof] = np.array(net.layers[0].running_var)
    for ddof in (0, 1):
        converted = BatchNorm.convert_running_var(variance[ddof], m, from_ddof=ddof, to_ddof=1 - ddof)
        assert_near(converted, variance[1 - ddof], 1.5, f"from {ddof}")
        same = BatchNorm.convert_running_var(variance[ddof], m, from_ddof=ddof, to_ddof=ddof)
        assert_same_bits(same, variance[ddof], "the same convention")


def test_conversion_refuses():
    var = np.ones(3)
    convert = functools.partial(BatchNorm.convert_running_var, from_ddof=0, to_ddof=1)
    assert_refused(ValueError, "batch_size", convert, var, 1)
    assert_refused(TypeError, "batch_size", convert, var, 2.0)
    assert_refused(ValueError, "running_var", convert, -var, 5)
    assert_refused(TypeError, "running_var", convert, var.astype(int), 5)
    for name in ("from_ddof", "to_ddof"):
        assert_refused(ValueError, name, BatchNorm.convert_running_var, var, 5, **{"from_ddof": 0, "to_ddof": 0, name: 2})
    for value, error in ((2, ValueError), (-1, ValueError), (True, TypeError), (1.0, TypeError), (None, TypeError)):
        assert_refused(error, "running_var_ddof", BatchNorm, 3, running_var_ddof=value)
    assert repr(BatchNorm(3, running_var_ddof=0)) == "BatchNorm(3, running_var_ddof=0)"


@pytest.mark.parametrize(("make", "eps"), [(BatchNorm.keras, 1e-3), (BatchNorm.flax, 1e-5)])
def test_the_layers_of_other_libraries(make, eps, rng):
    layer = make(4)
    assert (layer.eps, layer.running_var_ddof, layer.virtual_batch_size) == (eps, 0, None)
    assert 1 - layer.momentum == 0.99, "the weight of the old value to the last bit"
    layer = make(4, momentum=0.75, eps=0.5, virtual_batch_size=16)
    assert (layer.momentum, layer.eps, layer.virtual_batch_size) == (0.25, 0.5, 16)
    net = Sequential([layer, Dense(4, 2)], dtype="float64")
    x = rng.standard_normal((10, 4))
    net.forward(x, training=True)
    # new = 0.75 old + 0.25 batch, biased
    np.testing.assert_allclose(layer.running_mean, 0.25 * x.mean(axis=0), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(layer.running_var, 0.75 + 0.25 * x.var(axis=0), rtol=1e-13)
    assert_refused(ValueError, "momentum", make, 3, momentum=1.5)


# ------------------------------------------------------------------------------------------- statistics of a population

def population(net, x, batch_size):
    """Algorithm 2 of the paper as it stands, in float64, one layer after the other."""
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(x))
    count = max(1, len(x) // batch_size)
    batches = [order[k * batch_size: len(x) if k == count - 1 else (k + 1) * batch_size] for k in range(count)]
    plain = Plain(net, FLOAT64)
    sums = {}
    for rows in batches:
        h = x[rows].astype(FLOAT64)
        for i, layer in enumerate(net.layers):
            if isinstance(layer, BatchNorm):
                parts = []
                for part in groups(layer, len(h)):
                    m = part.stop - part.start
                    mean, var = h[part].mean(axis=0), h[part].var(axis=0) * m / (m - layer.running_var_ddof)
                    sums.setdefault(i, []).append((m, mean, var))
                    parts.append(reference.batchnorm_forward(h[part], *plain.own(i, "gamma", "beta"), eps=layer.eps)[0])
                h = np.concatenate(parts)
            elif isinstance(layer, Dense):
                h = h @ plain.state[f"{i}.weight"] + plain.state.get(f"{i}.bias", 0.0)
            elif not isinstance(layer, Dropout):
                h = reference.activation_forward(h, layer.kind)
    result = {}
    for i, parts in sums.items():
        for k, name in ((1, "running_mean"), (2, "running_var")):
            result[f"{i}.{name}"] = sum(part[0] * part[k] for part in parts) / len(x)
    return result


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("n", "batch_size", "size"), [(240, 60, None), (250, 60, None), (250, 60, 16), (5, 2, None), (2, 128, 8)])
def test_refreshed_statistics_are_those_of_algorithm_2(n, batch_size, size, dtype, rng):
    x, _ = data(rng, dtype, n)
    net = network(dtype, size, ddof=0 if size else 1)
    before = net.state_dict()
    net.refresh_statistics(x, batch_size=batch_size)
    expected = population(net, x, batch_size)
    assert len(expected) == 6
    for name, a in net.state_dict().items():
        if name in expected:
            assert_near(a, expected[name].astype(dtype), 64, name, scale=np.abs(expected[name]).max() + 1)
        else:
            assert_same_bits(a, before[name], name)


def test_refreshing_changes_nothing_else(rng):
    """Training goes on as if nothing had been, but for the running statistics."""
    x, y = data(rng, FLOAT32, 90)
    layers = [Dense(5, 8), BatchNorm(8), Dropout(0.4), Tanh(), Dense(8, 3)]
    net = Sequential([copy.copy(layer) for layer in layers], seed=1)
    net.fit(x, y, batch_size=30)
    twin = copy.deepcopy(net)
    net.refresh_statistics(x)
    again = copy.deepcopy(net)
    again.refresh_statistics(x)
    assert_same_bits(list(again.state_dict().values()), list(net.state_dict().values()), "the same data, the same statistics")
    for a in (net, twin):
        a.fit(x, y, batch_size=30)
    for name, a in net.state_dict().items():
        if "running" not in name:
            assert_same_bits(a, twin.state_dict()[name], name)


def test_refreshing_leaves_dropout_out(rng):
    x, _ = data(rng, FLOAT64, 64)
    net = Sequential([Dropout(0.5), Dense(5, 4), Dropout(0.9), BatchNorm(4), Dense(4, 2)], dtype="float64", seed=0)
    net.refresh_statistics(x, batch_size=64)
    h = x @ net.layers[1].weight + net.layers[1].bias
    np.testing.assert_allclose(net.layers[3].running_mean, h.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(net.layers[3].running_var, h.var(axis=0, ddof=1), rtol=1e-12)


def test_refreshed_statistics_of_one_batch_normalise_it(rng):
    """With the biased variance evaluation is then what training gives for this batch."""
    x, y = data(rng, FLOAT64, 200)
    norms = [BatchNorm(width, running_var_ddof=0) for width in (20, 9)]
    net = Sequential([Dense(5, 20), norms[0], Tanh(), Dense(20, 9), norms[1], Dense(9, 3)], dtype="float64", seed=0)
    net.fit(x, y, optimizer=fnn.SGD(lr=0.5))
    assert net.evaluate(x, y)["loss"] != pytest.approx(net.loss_and_gradients(x, y)[0], rel=1e-3)
    net.refresh_statistics(x, batch_size=200)
    assert net.evaluate(x, y)["loss"] == pytest.approx(net.loss_and_gradients(x, y)[0], rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_constant_column_has_just_its_value_and_no_variance(dtype):
    value = dtype.type(0.1) * 12345
    x = np.full((1000, 3), value, dtype)
    net = Sequential([BatchNorm(3), Dense(3, 2)], dtype=dtype)
    net.refresh_statistics(x, batch_size=37)
    np.testing.assert_array_equal(net.layers[0].running_mean, value)
    np.testing.assert_array_equal(net.layers[0].running_var, 0)


def test_rows_of_any_type_give_the_statistics_of_the_converted_ones(rng):
    x = rng.integers(0, 200, (70, 5)).astype(np.uint8)
    states = []
    for given in (x, x.astype(np.float32), x.astype(">f8"), np.asfortranarray(x.astype(np.int64))):
        net = network(FLOAT32, 8)
        net.refresh_statistics(given, batch_size=20)
        states.append(list(net.state_dict().values()))
    for state in states[1:]:
        assert_same_bits(state, states[0], "converted")


def test_refreshing_without_a_batch_norm_changes_nothing(rng):
    net = Sequential([Dense(3, 2)], seed=0)
    before = net.state_dict()
    net.refresh_statistics(np.ones((1, 3)))
    assert_same_bits(list(net.state_dict().values()), list(before.values()), "nothing")


def test_refreshing_refuses_and_changes_nothing(rng):
    x, _ = data(rng, FLOAT32, 30)
    net = network(FLOAT32, None)
    before = net.state_dict()
    assert_refused(ValueError, "x", net.refresh_statistics, x[:1])
    assert_refused(ValueError, "x", net.refresh_statistics, x[:0])
    assert_refused(ValueError, "x", net.refresh_statistics, x[:, :4])
    assert_refused(ValueError, "batch_size", net.refresh_statistics, x, batch_size=1)
    assert_refused(TypeError, "batch_size", net.refresh_statistics, x, batch_size=8.0)
    for bad in (np.nan, np.inf):
        wrong = x.copy()
        wrong[17, 3] = bad
        text = assert_refused(ValueError, "x", net.refresh_statistics, wrong)
        assert "layers[0]" in text and "column 3" in text
    huge = x.astype(FLOAT64) * 1e30     # the variance, not the mean, is beyond float32
    assert "running_var" in assert_refused(ValueError, "x", net.refresh_statistics, huge)
    assert_same_bits(list(net.state_dict().values()), list(before.values()), "nothing")


def test_refreshing_a_busy_network_is_refused(rng):
    x, _ = data(rng, FLOAT32, 30)
    net = network(FLOAT32, None)
    net._holder["by"] = object()
    with pytest.raises(RuntimeError, match="busy"):
        net.refresh_statistics(x)
    with pytest.raises(RuntimeError, match="busy"):
        net.fold_batchnorm()


def test_an_interrupted_refresh_leaves_the_old_statistics(rng, monkeypatch):
    x, _ = data(rng, FLOAT32, 60)
    net = network(FLOAT32, None)
    before = net.state_dict()
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return batch(*args)

    batch = fnn.statistics.batch
    monkeypatch.setattr(fnn.statistics, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        net.refresh_statistics(x, batch_size=10)
    assert_same_bits(list(net.state_dict().values()), list(before.values()), "the old ones")
    net.refresh_statistics(x, batch_size=10)        # and the network is free
