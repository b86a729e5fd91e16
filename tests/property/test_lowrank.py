"""Matrices of low rank that are cut, reordered and joined stand for the values that they should."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm_converters.adapters.lowrank import LowRank, Product, join, move, stack
from edgellm_converters.plan import Change, Piece

SCALES = st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 10 / 3, 20.0])


def low_rank(rng: np.random.Generator, rows: int, columns: int, rank: int, scale: float) -> LowRank:
    # Small whole numbers, so that float32 holds every product.
    left = rng.integers(-4, 5, (rows, rank)).astype(np.float32)
    right = rng.integers(-4, 5, (rank, columns)).astype(np.float32)
    return LowRank(left, right, scale)


def values(of: LowRank | Product) -> np.ndarray:
    return np.float64(of.scale) * (of.left.astype(np.float64) @ of.right.astype(np.float64))


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    return np.allclose(found, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max(initial=1))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 6),
    st.integers(1, 6),
)
def test_a_cut_is_the_rows_that_were_meant(
    seed: int, rank: int, columns: int, row: int, rows: int
) -> None:
    rng = np.random.default_rng(seed)
    change = low_rank(rng, 12, columns, rank, 1.5)
    moved = move(change, Piece("w", row, rows, columns), 100)
    assert moved is not None
    assert (moved.row, moved.end) == (100, 100 + rows)
    assert np.array_equal(values(moved), values(change)[row : row + rows])
    assert move(change, Piece("w", 12, 3, columns), 0) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.sampled_from([2, 4, 8]), st.integers(1, 3))
def test_rotary_rows_move_as_those_of_the_weight_do(
    seed: int, rank: int, head: int, heads: int
) -> None:
    rng = np.random.default_rng(seed)
    change = low_rank(rng, heads * head, 3, rank, 2.0)
    piece = Piece("w", 0, heads * head, 3, (Change.TO_GGML_ROPE,), head)
    moved = move(change, piece, 0)
    assert moved is not None
    before, after = values(change), values(moved)
    for at in range(heads):
        for pair in range(head // 2):
            for half in range(2):
                old, new = at * head + half * head // 2 + pair, at * head + 2 * pair + half
                assert np.array_equal(after[new], before[old])
    back = move(moved, Piece("w", 0, heads * head, 3, (Change.FROM_GGML_ROPE,), head), 0)
    assert back is not None
    assert np.array_equal(back.left, change.left)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
def test_a_transposed_change_is_the_transpose(
    seed: int, rank: int, rows: int, columns: int
) -> None:
    change = low_rank(np.random.default_rng(seed), rows, columns, rank, 0.75)
    moved = move(change, Piece("w", 0, rows, columns, (Change.TRANSPOSE,)), 5)
    assert moved is not None
    assert moved.row == 5
    assert np.array_equal(values(moved), values(change).T)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), SCALES), min_size=1, max_size=4),
)
def test_joined_changes_stand_side_by_side(
    seed: int, columns: int, parts: list[tuple[int, int, float]]
) -> None:
    rng = np.random.default_rng(seed)
    wanted = np.zeros((sum(rows for rows, _, _ in parts) + 2, columns))
    changes, at = [], 1  # a row of zeros before and after them
    for rows, rank, scale in parts:
        change = low_rank(rng, rows, columns, rank, scale)
        changes.append(LowRank(change.left, change.right, scale, at))
        wanted[at : at + rows] = values(change)
        at += rows
    product = join(changes, len(wanted), columns)
    assert product.rank == sum(rank for _, rank, _ in parts)
    assert close(values(product), wanted)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.permutations(range(4)))
def test_pieces_of_one_change_share_its_right_matrix(
    seed: int, rank: int, order: list[int]
) -> None:
    change = low_rank(np.random.default_rng(seed), 8, 3, rank, 1.25)
    pieces = [Piece("w", 2 * number, 2, 3) for number in order]
    moved = [move(change, piece, 2 * at) for at, piece in enumerate(pieces)]
    product = join([each for each in moved if each is not None], 8, 3)
    assert product.rank == rank
    assert np.array_equal(values(product), values(change).reshape(4, 2, 3)[order].reshape(8, 3))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.one_of(st.none(), st.tuples(st.integers(1, 4), SCALES)), min_size=1, max_size=5),
)
def test_stacked_experts_keep_their_own(seed: int, experts: list[tuple[int, float] | None]) -> None:
    if not any(experts):
        return
    rng = np.random.default_rng(seed)
    wanted = np.zeros((len(experts), 3, 2))
    changes = []
    for number, expert in enumerate(experts):
        if expert is not None:
            change = low_rank(rng, 3, 2, *expert)
            changes.append(LowRank(change.left, change.right, change.scale, 3 * number))
            wanted[number] = values(change)
    product = stack(changes, len(experts), 3, 2)
    assert product.rank == max(expert[0] for expert in experts if expert is not None)
    assert close(values(product), wanted)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), SCALES, SCALES, st.integers(0, 3))
def test_another_scale_and_rank_give_the_same_values(
    seed: int, scale: float, other: float, more: int
) -> None:
    change = low_rank(np.random.default_rng(seed), 4, 5, 2, scale)
    product = Product(change.left, change.right, scale)
    found = product.with_scale(other).with_rank(2 + more)
    assert (found.scale, found.rank) == (other, 2 + more)
    assert close(values(found), values(product))
    assert found.folded is (scale != other)
    ratio = Fraction(scale).limit_denominator(100) / Fraction(other).limit_denominator(100)
    power = ratio in [Fraction(2) ** exponent for exponent in range(-8, 9)]
    assert found.exact is power
    if power:  # nothing was rounded
        assert np.array_equal(values(found), values(product))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 6), st.integers(1, 6), SCALES)
def test_rows_of_a_change_are_rows_of_its_product(
    seed: int, first: int, count: int, scale: float
) -> None:
    change = low_rank(np.random.default_rng(seed), 12, 3, 2, scale)
    moved = LowRank(change.left, change.right, scale, 40)
    found = moved.values(40 + first, 40 + first + count, 0.5)
    assert close(found, 0.5 * values(change)[first : first + count])
