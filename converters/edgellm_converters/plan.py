"""From rules and names to a plan that is complete both ways, before a byte is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from edgellm_converters.architectures.base import Place, Side, TensorRule, Transform
from edgellm_converters.errors import IncompletePlanError

__all__ = ["Change", "Piece", "Step", "make_plan"]

SHOWN = 5


class Change(Enum):
    """What is done to the values of a piece."""

    TO_GGML_ROPE = "rows of a head: (2, half) to (half, 2)"
    FROM_GGML_ROPE = "rows of a head: (half, 2) to (2, half)"
    ADD_ONE = "w to 1 + w"
    SUBTRACT_ONE = "1 + w to w"
    TRANSPOSE = "rows and columns change places"


_FORWARD: Mapping[Transform, tuple[Change, ...]] = {
    Transform.PLAIN: (),
    Transform.ROPE: (Change.TO_GGML_ROPE,),
    Transform.PLUS_ONE: (Change.ADD_ONE,),
    Transform.TRANSPOSED: (Change.TRANSPOSE,),
}
_BACKWARD: Mapping[Transform, tuple[Change, ...]] = {
    Transform.PLAIN: (),
    Transform.ROPE: (Change.FROM_GGML_ROPE,),
    Transform.PLUS_ONE: (Change.SUBTRACT_ONE,),
    Transform.TRANSPOSED: (Change.TRANSPOSE,),
}


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a tensor of the source: `rows` of `columns` values from `row` on.

    `vector` tells that the tensor has one dimension; its rows are its values. `head_dim` is for
    the changes of rotary rows alone.
    """

    source: str
    row: int
    rows: int
    columns: int
    changes: tuple[Change, ...] = ()
    head_dim: int = 0
    vector: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One tensor of the target, in numpy's order, and the pieces that it is put together of.

    `blank` rows of zeros come before the pieces. `gguf` is the tensor's name in GGUF, or that of
    the first of several, by which recipes know what part it plays.
    """

    target: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    gguf: str
    blank: int = 0

    @classmethod
    def copy(cls, name: str, shape: tuple[int, ...]) -> Step:
        """Make the step that takes a tensor over as it is."""
        place = Place(name, shape)
        piece = Piece(name, 0, place.height, place.columns, vector=len(shape) == 1)
        return cls(name, shape, (piece,), name)

    @property
    def source(self) -> str:
        """The first tensor of the source that it comes from."""
        return self.pieces[0].source

    @property
    def moves_rows(self) -> bool:
        """True if rows of the source become rows of the target as they are, in whatever order."""
        rope = {Change.TO_GGML_ROPE, Change.FROM_GGML_ROPE}
        return not self.blank and all(set(piece.changes) <= rope for piece in self.pieces)

    @property
    def computes(self) -> bool:
        """True if values of the target are others than the source's."""
        shifts = {Change.ADD_ONE, Change.SUBTRACT_ONE}
        return any(shifts & set(piece.changes) for piece in self.pieces)


def make_plan(
    path: Path,
    rules: Sequence[TensorRule],
    shapes: Mapping[str, tuple[int, ...]],
    source: Side,
    target: Side,
    *,
    unused: Sequence[str] = (),
) -> list[Step]:
    """Pair every tensor of the source with a rule, and every rule with a tensor.

    Args:
        path: the checkpoint, named in errors.
        rules: what the architecture has.
        shapes: the tensors of the source, in numpy's order.
        source: the side that the tensors are of.
        target: the side to write.
        unused: endings of source names that are left out on purpose.

    Raises:
        IncompletePlanError: a rule without a tensor, a tensor without a rule, or a wrong shape.
    """
    wanted = {rule.place(source).name: rule.place(source).shape for rule in rules}
    missing = [name for name in wanted if name not in shapes]
    if missing:
        raise IncompletePlanError(
            f"{path}: {_count(missing, 'tensor is', 'tensors are')} missing: {_some(missing)}",
            hint="the checkpoint is not whole, or its configuration is another model's",
        )
    extra = [
        name
        for name in shapes
        if name not in wanted and not any(name.endswith(ending) for ending in unused)
    ]
    if extra:
        raise IncompletePlanError(
            f"{path}: {_count(extra, 'tensor has', 'tensors have')} no place in the architecture: "
            f"{_some(extra)}"
        )
    for name, shape in wanted.items():
        if shapes[name] != shape:
            raise IncompletePlanError(
                f"{path}: the tensor {name} has the shape {list(shapes[name])}, but "
                f"the configuration asks for {list(shape)}"
            )
    # By place: values may stand twice on the side of the source, and come from the first one then.
    grouped: dict[str, dict[Place, TensorRule]] = {}
    for rule in rules:
        place = rule.place(target)
        grouped.setdefault(place.name, {}).setdefault(place, rule)
    return [_step(list(group.values()), source, target) for group in grouped.values()]


def _step(rules: Sequence[TensorRule], source: Side, target: Side) -> Step:
    """Put the pieces of one tensor of the target in the order of its rows."""
    rules = sorted(rules, key=lambda rule: rule.place(target).row)
    whole = rules[0].place(target)
    at = blank = whole.row
    pieces: list[Piece] = []
    for rule in rules:
        to = rule.place(target)
        if to.row != at or to.shape != whole.shape:
            raise ValueError(f"the rules of {to.name} leave a gap, or overlap, at row {at}")
        at += to.height
        piece = _piece(rule, source, target)
        last = pieces[-1] if pieces else None
        if last is not None and _continues(last, piece):
            pieces[-1] = replace(last, rows=last.rows + piece.rows)
        else:
            pieces.append(piece)
    if at != whole.all_rows:
        raise ValueError(f"the rules of {whole.name} end at row {at} of {whole.all_rows}")
    return Step(whole.name, whole.shape, tuple(pieces), rules[0].gguf.name, blank)


def _piece(rule: TensorRule, source: Side, target: Side) -> Piece:
    before, after = rule.transform_to(source), rule.transform_to(target)
    changes = () if before is after else (*_BACKWARD[before], *_FORWARD[after])
    place = rule.place(source)
    rope = {Change.TO_GGML_ROPE, Change.FROM_GGML_ROPE}
    return Piece(
        place.name,
        place.row,
        place.height,
        place.columns,
        changes,
        rule.head_dim if rope & set(changes) else 0,
        len(place.shape) == 1,
    )


def _continues(last: Piece, piece: Piece) -> bool:
    """Tell whether a piece follows another in the source and is taken over alike."""
    alike = replace(last, row=0, rows=0) == replace(piece, row=0, rows=0)
    return alike and Change.TRANSPOSE not in piece.changes and piece.row == last.row + last.rows


def _count(names: Sequence[str], one: str, several: str) -> str:
    return f"1 {one}" if len(names) == 1 else f"{len(names)} {several}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown}, ..."
