"""The matrix product alone, by the entry that is made for tests: any strides of A, either stride of B one element."""

import itertools

import numpy as np
import pytest
from conftest import DTYPES, SIZES, assert_near_each, assert_same_bits, normal, product_budget
from oracle import nw_each, wide

from fastnn._kernels import by_dtype, gemm

product = by_dtype(gemm.product)

# (m, k, n) beyond the blocks: 512 rows of B in a panel, blocks of some tiles of 4, 6 or 12 rows of A, panels of one
# to four vectors of 2 to 16 numbers; neighbours 1000 bytes apart, operands of more than 32 kB
LARGE = [
    (1, 255, 257), (3, 256, 100), (5, 257, 65), (6, 40, 63), (7, 513, 31), (11, 600, 130), (13, 511, 48),
    (25, 256, 600), (49, 257, 520), (97, 255, 33), (145, 300, 66), (289, 256, 17), (300, 258, 130), (520, 300, 70),
    (600, 257, 64), (1030, 5, 3), (16, 512, 66), (17, 1030, 40), (40, 1025, 300),
]


def empty(dtype, m, n):
    """C with a border of NaN before and after, and a look at whether the border has been left alone."""
    memory = np.full(m * n + 128, np.nan, dtype)
    c = memory[64:64 + m * n].reshape(m, n)
    return c, lambda: np.isnan(memory[:64]).all() and np.isnan(memory[-64:]).all()


def spread(a):
    """Rows and columns with others, of NaN, between them."""
    whole = np.full((2 * a.shape[0] + 1, 3 * a.shape[1] + 1), np.nan, a.dtype)
    part = whole[1::2, 1::3]
    part[...] = a
    return part


def row_spread(a):
    """Rows longer than what is read of them."""
    whole = np.full((a.shape[0], a.shape[1] + 5), np.nan, a.dtype)
    whole[:, 2:-3] = a
    return whole[:, 2:-3]


LAYOUTS_OF_A = {"rows": np.ascontiguousarray, "columns": np.asfortranarray, "spread": spread}
LAYOUTS_OF_B = {
    "rows": np.ascontiguousarray, "columns": np.asfortranarray, "long rows": row_spread,
    "long columns": lambda b: row_spread(b.T).T,
}


FEW = 16        # rows of A up to which a transposed B is read as it lies


def by_dots(a, b):
    """Whether an element is a dot product of two runs of memory, vector by vector, instead of the sum in order.

    Then both lie along the sum; and B is one column, or A has few rows and the sum is at least a vector long, or A is tiny.
    """
    lanes = max(gemm.vector_lanes() * 4 // a.itemsize, 1)
    m, k = a.shape
    if a.strides[1] != a.itemsize or b.strides[0] != b.itemsize:
        return False
    if b.shape[1] == 1:
        return True
    return b.strides[1] != b.itemsize and m <= FEW and (k >= lanes or m * k <= lanes)


def assert_product(a, b, bias, case):
    expected, scale = a @ b, np.abs(a) @ np.abs(b)
    for add in (None, bias):
        if add is not None:
            expected, scale = expected + add, scale + np.abs(add)
        first = {}
        for (name_a, lay_a), (name_b, lay_b) in itertools.product(LAYOUTS_OF_A.items(), LAYOUTS_OF_B.items()):
            c, intact = empty(a.dtype, len(a), b.shape[1])
            laid_a, laid_b = lay_a(a), lay_b(b)
            product[a.dtype](laid_a, laid_b, add, c)
            where = f"{case}, A by {name_a}, B by {name_b}, bias {add is not None}"
            assert intact(), f"{where}: written beyond C"
            way = by_dots(laid_a, laid_b)
            if way not in first:
                first[way] = c
                assert_near_each(c, expected, 2 * product_budget(a.shape[1]), where, scale)
            # in whatever order memory is walked, an element is the same sum
            assert_same_bits(c, first[way], where)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_numpy(rng, dtype):
    for shape in itertools.product((1, 2, 7, 9, 17), SIZES, SIZES):
        m, k, n = shape
        assert_product(normal(rng, dtype, m, k), normal(rng, dtype, k, n), normal(rng, dtype, n), shape)
    for m, n in itertools.product(SIZES, (1, 8, 17)):
        assert_product(normal(rng, dtype, m, 9), normal(rng, dtype, 9, n), normal(rng, dtype, n), (m, 9, n))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_numpy_beyond_a_block(rng, dtype):
    for shape in LARGE:
        m, k, n = shape
        assert_product(normal(rng, dtype, m, k), normal(rng, dtype, k, n), normal(rng, dtype, n), shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_width(rng, dtype):
    # every way to cut n columns into panels of four, two and one vectors and a ragged rest
    for m, n in itertools.product((1, 3, 6, 13), range(1, 140)):
        a, b, bias = normal(rng, dtype, m, 5), normal(rng, dtype, 5, n), normal(rng, dtype, n)
        c, intact = empty(dtype, m, n)
        product[a.dtype](a, b, bias, c)
        assert_near_each(c, a @ b + bias, 8, (m, n), np.abs(a) @ np.abs(b) + np.abs(bias))
        assert intact(), (m, n)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_height(rng, dtype):
    for m, n in itertools.product(range(1, 80), (16, 33)):
        a, b = normal(rng, dtype, m, 5), normal(rng, dtype, 5, n)
        c, intact = empty(dtype, m, n)
        product[a.dtype](a, b, None, c)
        assert_near_each(c, a @ b, 8, (m, n), np.abs(a) @ np.abs(b))
        assert intact(), (m, n)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_part_of_a_product_has_the_same_bits(rng, dtype):
    # blocks and panels fall differently on the part: they must not show, or threads could not share a product
    for m, k, n in [(30, 40, 70), (300, 513, 100), (9, 300, 600)]:
        a, b, bias = normal(rng, dtype, m, k), normal(rng, dtype, k, n), normal(rng, dtype, n)
        whole = np.empty((m, n), dtype)
        product[a.dtype](a, b, bias, whole)
        for rows, columns in [((0, 1), (0, n)), ((0, m), (n - 1, n)), ((m // 3, m), (n // 2, n)), ((3, 8), (5, 22))]:
            rows, columns = slice(*rows), slice(*columns)
            part = np.empty_like(whole[rows, columns], order="C")
            product[a.dtype](a[rows], b[:, columns], bias[columns].copy(), part)
            assert_same_bits(part, whole[rows, columns].copy(), (m, k, n, rows, columns))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_part_of_a_product_with_a_transpose_has_the_same_bits(rng, dtype):
    # the two products of a backward pass: d weight^T is shared out by rows of the weight, x^T d by columns of x
    for m, k, n in [(1, 40, 70), (2, 513, 130), (7, 33, 64), (16, 100, 257), (17, 100, 257), (300, 65, 100)]:
        d, weight, x = normal(rng, dtype, m, k), normal(rng, dtype, n, k), normal(rng, dtype, m, n)
        dx, dweight = np.empty((m, n), dtype), np.empty((n, k), dtype)
        product[d.dtype](d, weight.T, None, dx)
        product[d.dtype](x.T, d, None, dweight)
        # (a single column has no stride by which a transpose would be told from a column of its own)
        for first, end in [(0, 2), (0, n // 2), (n // 2, n), (n - 2, n), (5, 38), (16, 64)]:
            part = np.empty((m, min(end, n) - first), dtype)
            product[d.dtype](d, weight[first:end].T, None, part)
            assert_same_bits(part, dx[:, first:end].copy(), (m, k, n, first, end))
            part = np.empty((min(end, n) - first, k), dtype)
            product[d.dtype](x[:, first:end].T, d, None, part)
            assert_same_bits(part, dweight[first:end].copy(), (m, k, n, first, end))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy(rng, dtype):
    for k in (1, 16, 256, 257, 1024, 4000):
        for a, b in [(normal(rng, dtype, 7, k), normal(rng, dtype, k, 9)), (rng.random((7, k)), rng.random((k, 9)))]:
            a, b = a.astype(dtype), b.astype(dtype)
            exact = wide(a), wide(b)
            for lay_b in (np.ascontiguousarray, np.asfortranarray):
                c = np.empty((7, 9), dtype)
                product[a.dtype](a, lay_b(b), None, c)
                error = nw_each(c, exact[0] @ exact[1], np.abs(exact[0]) @ np.abs(exact[1]))
                assert error <= product_budget(k), f"{k}, {lay_b.__name__}: {error:.3g}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_not_finite(dtype):
    for m, k, n in [(1, 1, 1), (5, 9, 20), (30, 300, 70), (9, 40, 600)]:
        for value in (np.nan, np.inf):
            for lay_b in LAYOUTS_OF_B.values():
                # nothing is skipped: 0 * NaN and 0 * inf are NaN, and only in that column
                b = np.ones((k, n), dtype)
                b[k - 1, n - 1] = value
                c = np.empty((m, n), dtype)
                product[b.dtype](np.zeros((m, k), dtype), lay_b(b), None, c)
                assert np.isnan(c[:, -1]).all()
                assert not c[:, :-1].any()


def test_subnormal_numbers_are_kept():
    for dtype in DTYPES:
        tiny = np.finfo(dtype).smallest_subnormal
        c = np.empty((3, 20), dtype)
        product[dtype](np.full((3, 2), tiny), np.ones((2, 20), dtype), None, c)
        assert (c == 2 * tiny).all()
