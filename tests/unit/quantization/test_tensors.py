"""Statistics of a target's tensors, put together from those of its pieces."""

from __future__ import annotations

import itertools

import numpy as np

from edgellm.quantization.tensors import sources_of, statistics_of
from edgellm_converters.plan import Change, Piece, Step
from edgellm_quant.statistics import RowStatistics, TensorStatistics


def known(rows: int, cuts: tuple[int, ...], first: float) -> TensorStatistics:
    borders = (0, *cuts, rows)
    return TensorStatistics(
        2,
        tuple(
            RowStatistics(a, b, 5, np.full(2, first + number, np.float32))
            for number, (a, b) in enumerate(itertools.pairwise(borders))
        ),
    )


def step(*pieces: Piece, blank: int = 0) -> Step:
    rows = sum(piece.rows for piece in pieces) + blank
    return Step("t", (rows, 2), pieces, "g", blank)


def test_groups_follow_the_pieces() -> None:
    made = step(Piece("a", 2, 4, 2), Piece("b", 0, 3, 2, (Change.TO_GGML_ROPE,), 3))
    found = statistics_of(made, {"a": known(8, (4,), 0), "b": known(3, (), 10)})
    assert found is not None
    assert [(g.start, g.stop, float(g.importance[0])) for g in found.groups] == [
        (0, 2, 0.0),
        (2, 4, 1.0),
        (4, 7, 10.0),
    ]
    assert sources_of(made) == ["a", "b"]


def test_none_where_a_piece_is_not_known_or_its_columns_are_others() -> None:
    of_a = {"a": known(8, (), 0)}
    assert statistics_of(step(Piece("a", 0, 8, 2), Piece("b", 0, 1, 2)), of_a) is None
    assert statistics_of(step(Piece("a", 0, 8, 2), blank=1), of_a) is None
    assert statistics_of(step(Piece("a", 0, 8, 2, (Change.TRANSPOSE,))), of_a) is None
    assert statistics_of(step(Piece("a", 0, 8, 4)), of_a) is None
