"""Dropout masks: Philox4x32-10 word for word, any part of a mask drawn alone, and the statistics of what is kept."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from conftest import DTYPES, assert_same_bits

import fastnn as fnn
from fastnn._kernels import by_dtype, dropout

Array = np.ndarray

WORD = 2**32 - 1
GROUP = 64          # columns that share 16 counters, which give four words each

_mask = by_dtype(dropout.mask)


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Ten rounds of Salmon et al. (2011), section 3.2."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second & WORD, (first >> 32) ^ c3 ^ k1, first & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3


def word(key: int, step: int, layer: int, row: int, column: int) -> int:
    """The random word of one element."""
    group, place = divmod(column, GROUP)
    counter = (group * 16 + place % 16, row, step & WORD, layer ^ (step >> 32 << 16))
    return philox(counter, (key & WORD, key >> 32))[place // 16]


def mask(
    shape: tuple[int, int], *, key: int = 0, step: int = 0, layer: int = 0, p: float = 0.5, row: int = 0, column: int = 0,
    dtype: Any = np.float32,
) -> Array:
    out = np.full(shape, np.nan, dtype)
    _mask[np.dtype(dtype)](key, step, layer, p, row, column, out)
    return out


# ----------------------------------------------------------------------------------------------------- word for word

@pytest.mark.parametrize(("counter", "key", "words"), [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
])
def test_the_generator_written_here_gives_the_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, int, int, int],
) -> None:
    """Those that come with Random123."""
    assert philox(counter, key) == words


def assert_word(expected: int, row: int, column: int, **place: int) -> None:
    # an element is dropped from the probability on that lies above its word
    for above, kept in ((0, True), (1, False)):
        p = (expected + above) / 2**32
        element = mask((1, 1), p=p, row=row, column=column, dtype=np.float64, **place)
        assert element.item() == (1 / (1 - p) if kept else 0), (row, column, place, above)


def test_the_known_answer() -> None:
    for column, expected in zip((0, 16, 32, 48), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8), strict=True):
        assert_word(expected, 0, column)


@pytest.mark.parametrize("place", [
    {}, {"key": 1}, {"key": 2**32}, {"key": 2**64 - 1}, {"key": 0x0123456789ABCDEF, "step": 77, "layer": 3},
    {"step": 2**32 - 1}, {"step": 2**32}, {"step": 2**40 + 5, "layer": 200},
])
def test_every_word_is_that_of_its_place(place: dict[str, int]) -> None:
    elements = [*itertools.product((0, 1, 599), (0, 1, 15, 16, 63, 64, 130, 1029)), (2**31, 5), (7, 10**6)]
    for row, column in elements:
        assert_word(word(row=row, column=column, **({"key": 0, "step": 0, "layer": 0} | place)), row, column, **place)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1 / 3])
def test_a_whole_mask(p: float, dtype: Any) -> None:
    place = {"key": 0xFEDCBA9876543210, "step": 12, "layer": 5}
    scale = np.dtype(dtype).type(1 / (1 - p))
    expected = [[0 if word(row=row, column=column, **place) < int(p * 2**32) else scale for column in range(150)]
                for row in range(9)]
    assert_same_bits(mask((9, 150), p=p, dtype=dtype, **place), np.array(expected, dtype), (p, dtype))


# ------------------------------------------------------------------------------------------------------ parts of a mask

@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parts_are_parts_of_the_whole(dtype: Any) -> None:
    place = {"key": 99, "step": 4, "layer": 1, "p": 0.3, "dtype": dtype}
    whole = mask((40, 300), **place)
    for first, end, start, stop in [
        (0, 1, 0, 1), (0, 40, 0, 64), (0, 40, 64, 128), (3, 17, 1, 2), (5, 6, 63, 65), (39, 40, 16, 300), (7, 30, 100, 257),
        (0, 40, 299, 300), (10, 20, 15, 33),
    ]:
        part = mask((end - first, stop - start), row=first, column=start, **place)
        assert_same_bits(part, whole[first:end, start:stop].copy(), (first, end, start, stop))
    assert_same_bits(mask((100, 700), **place)[:40, :300].copy(), whole, "a larger mask")


def test_both_dtypes_drop_the_same_elements() -> None:
    np.testing.assert_array_equal(*(mask((50, 100), key=8, dtype=dtype) == 0 for dtype in DTYPES))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_probability_zero_keeps_everything(dtype: Any) -> None:
    for key, step in itertools.product((0, 1, 2**64 - 1), (0, 1, 2**33)):
        assert (mask((100, 129), p=0.0, key=key, step=step, dtype=dtype) == 1).all()


def test_nearly_one_drops_nearly_everything() -> None:
    p = float(np.nextafter(1, 0))       # rounds to a threshold of 2^32 - 1: what is left is one word
    assert np.count_nonzero(mask((200, 200), p=p, dtype=np.float64)) == 0


# ----------------------------------------------------------------------------------------------------------- statistics

def correlation(a: Array, b: Array, variance: float) -> float:
    """Of two equally large sets of centred numbers, in standard deviations of its own."""
    return float(np.sum(a * b)) / (variance * np.sqrt(a.size))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_what_is_kept_is_binomial(p: float) -> None:
    n, d = 1000, 500
    kept = (mask((n, d), key=2024, step=3, layer=2, p=p) != 0).astype(np.float64)
    q, variance = 1 - p, p * (1 - p)
    assert abs(kept.mean() - q) <= 5 * np.sqrt(variance / kept.size)
    for counts, trials in ((kept.sum(axis=1), d), (kept.sum(axis=0), n)):
        expected = trials * variance
        # of the variance of a sample: 2 / (m - 1) and the excess of the binomial distribution
        sigma = expected * np.sqrt(2 / (len(counts) - 1) + (1 - 6 * variance) / expected / len(counts))
        assert abs(counts.var(ddof=1) - expected) <= 5 * sigma
    centred = kept - q
    for lag in (1, 4, 16, 32, 64):
        assert abs(correlation(centred[:, :-lag], centred[:, lag:], variance)) <= 5, f"columns {lag} apart"
        assert abs(correlation(centred[:-lag], centred[lag:], variance)) <= 5, f"rows {lag} apart"


def test_steps_layers_and_keys_have_nothing_in_common() -> None:
    p, places = 0.5, [{}, {"step": 1}, {"step": 2**32}, {"layer": 1}, {"layer": 2}, {"key": 1}, {"key": 2**32},
                      {"step": 1, "layer": 1}, {"key": 1, "layer": 1}, {"row": 300}, {"column": 320}]
    masks = [(mask((300, 300), p=p, **place) != 0) - p for place in places]
    for (a, first), (b, second) in itertools.combinations(zip(masks, places, strict=True), 2):
        assert abs(correlation(a, b, p * (1 - p))) <= 5, (first, second)


# ----------------------------------------------------------------------------------------------------------- in a network

def two_masks(net: fnn.Sequential, rows: int) -> tuple[Array, Array]:
    """What the two dropout layers of `passing` let through in one step."""
    out = net.forward(np.ones((rows, 100), np.float32), training=True)
    return out[:, :100], out[:, 100:]


def passing(seed: int = 0) -> fnn.Sequential:
    """Ones come out as the mask of the first dropout in the left half and as that of the second in the right.

    What the second keeps of the left half is made up for where the first drops nothing.
    """
    left = np.hstack([np.eye(100), np.zeros((100, 100))])
    bias = np.concatenate([np.zeros(100), np.ones(100)])
    net = fnn.Sequential([fnn.Dropout(0.5), fnn.Dense(100, 200, init=left), fnn.Dropout(0.25)], seed=seed)
    net.layers[1].bias = bias
    return net


def test_a_network_draws_a_mask_for_each_step_and_layer() -> None:
    net = passing()
    key, seen = net._mask_key, []
    for step in range(3):
        left, right = two_masks(net, 70)
        first = mask((70, 100), key=key, step=step, layer=0, p=0.5)
        second = mask((70, 200), key=key, step=step, layer=2, p=0.25)
        np.testing.assert_allclose(left, first * second[:, :100], rtol=1e-6)
        np.testing.assert_allclose(right, second[:, 100:], rtol=1e-6)
        seen += [left.tobytes(), right.tobytes()]
    assert len(set(seen)) == 6
    assert passing(seed=1)._mask_key != key
    # a row of the batch has its mask, however many there are
    np.testing.assert_array_equal(two_masks(passing(), 7)[1], two_masks(passing(), 70)[1][:7])


def test_a_step_that_fails_draws_nothing() -> None:
    x, y = np.ones((8, 100), np.float32), np.arange(8)
    net, twin = passing(), passing()
    with pytest.raises(fnn.DivergedError):
        net.train_step(np.full_like(x, np.nan), y, fnn.SGD())
    net.loss_and_gradients(x, y)
    net.predict(x)
    np.testing.assert_array_equal(net.forward(x, training=True), twin.forward(x, training=True))
