"""From the matrices of an adapter to those of another layout, by the rules of the architecture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgellm_converters.adapters.base import BaseModel
from edgellm_converters.adapters.files import SHOWN, Adapter, Pair
from edgellm_converters.adapters.gguf import EMBEDDINGS
from edgellm_converters.adapters.lowrank import LowRank, Product, join, move, stack
from edgellm_converters.architectures.base import Side, TensorRule, Transform
from edgellm_converters.errors import IncompletePlanError, UnsupportedError
from edgellm_converters.plan import Change, Step, make_plan

__all__ = ["Delta", "carry"]

HEAD = "lm_head"
EXPERTS = 3  # dimensions of the weights of stacked experts


@dataclass(frozen=True, slots=True)
class _Bound:
    """A pair of matrices and the weight of its side that it changes, of this shape."""

    pair: Pair
    shape: tuple[int, ...]
    turned: bool

    def changes(self, adapter: Adapter) -> Iterator[LowRank]:
        """Read the pair: one change, or one for each of the stacked experts."""
        a, b = adapter.read(self.pair)
        left, right = (a.swapaxes(-1, -2), b.swapaxes(-1, -2)) if self.turned else (b, a)
        if left.ndim < EXPERTS:
            yield LowRank(left, right, self.pair.scale)
            return
        for number in range(len(left)):
            rows = left.shape[1]
            yield LowRank(left[number], right[number], self.pair.scale, number * rows)


@dataclass(frozen=True, slots=True)
class Delta:
    """What an adapter adds to one tensor of a layout; matrices are read when they are asked for.

    `step` says of which weights the tensor is put together, `embedding` that rows of it are looked
    up, `tied` that it is the output matrix too.
    """

    step: Step
    embedding: bool
    tied: bool
    dtype: str
    _adapter: Adapter
    _bound: Mapping[str, _Bound]

    def changes(self) -> list[LowRank]:
        """Give the changes by rows of the tensor.

        Raises:
            UnsupportedError: the tensor is put together in a way that they cannot follow.
        """
        read: dict[str, list[LowRank]] = {}
        found = []
        row = self.step.blank
        for piece in self.step.pieces:
            bound = self._bound.get(piece.source)
            if bound is not None:
                if piece.source not in read:
                    read[piece.source] = list(bound.changes(self._adapter))
                for change in read[piece.source]:
                    try:
                        moved = move(change, piece, row)
                    except ValueError as error:
                        raise UnsupportedError(
                            f"{self._adapter.path}: a change of {piece.source} cannot be told as "
                            f"one of {self.step.target}",
                            hint="merge the adapter: edgellm convert BASE --lora ADAPTER -o OUT",
                        ) from error
                    if moved is not None:
                        found.append(moved)
            row += piece.columns if Change.TRANSPOSE in piece.changes else piece.rows
        return found

    def product(self) -> Product:
        """Give the changes as one pair of matrices, or one stack of pairs."""
        *experts, rows, columns = self.step.shape
        if experts:
            return stack(self.changes(), experts[0], rows, columns)
        return join(self.changes(), rows, columns)


def carry(adapter: Adapter, base: BaseModel, target: Side) -> list[Delta]:
    """Pair every module of an adapter with a tensor, and give what that means on another side.

    Raises:
        IncompletePlanError: modules that the base does not have, or of other shapes.
        UnsupportedError: a tied embedding, which one pair cannot change as both of its parts.
    """
    rules = base.rules()
    by_name: dict[str, TensorRule] = {}
    for rule in rules:
        by_name.setdefault(rule.place(adapter.side).name, rule)
    bound: dict[str, _Bound] = {}
    lost = []
    for pair in adapter.pairs:
        name = f"{pair.module}.weight"
        if adapter.side is Side.HF:
            name = base.architecture.canonical(name)
        if name not in by_name:
            lost.append(pair)
        elif name in bound:
            raise IncompletePlanError(
                f"{adapter.path}: {bound[name].pair.a} and {pair.a} change one tensor, {name}"
            )
        else:
            bound[name] = _bind(adapter, base, pair, by_name[name])
    if lost:
        _refuse(adapter, base, lost)
    shapes = {name: rule.place(adapter.side).shape for name, rule in by_name.items()}
    deltas = []
    unused = set(bound)
    for step in make_plan(base.path, rules, shapes, adapter.side, target):
        sources = {piece.source for piece in step.pieces}
        unused -= sources
        own = {name: bound[name] for name in sources if name in bound}
        if own:
            embedding = by_name[step.source].gguf.name in EMBEDDINGS
            tied = by_name[step.source].gguf.name == EMBEDDINGS[0] and base.decoder.tied
            kinds = {each.pair.dtype for each in own.values()}
            dtype = kinds.pop() if len(kinds) == 1 else "F32"
            deltas.append(Delta(step, embedding, tied, dtype, adapter, own))
    if unused:
        name = min(unused)
        raise UnsupportedError(
            f"{adapter.path}: {bound[name].pair.a} changes {name}, which {target.value} has as one "
            "tensor with another",
            hint="merge the adapter with the program that made it, and convert the merged model",
        )
    return deltas


def _bind(adapter: Adapter, base: BaseModel, pair: Pair, rule: TensorRule) -> _Bound:
    """Check the shapes of a pair against those of the weight."""
    place = rule.place(adapter.side)
    embedding = rule.gguf.name in EMBEDDINGS
    if embedding and adapter.side is Side.HF and base.decoder.tied:
        raise UnsupportedError(
            f"{adapter.path}: {pair.a} changes the embedding alone, but in {base.path} the output "
            "matrix is the same tensor (tie_word_embeddings)",
            hint="give the base an lm_head.weight of its own, or leave the embedding out when "
            "training",
        )
    if pair.embedding is not None and pair.embedding is not embedding:
        raise IncompletePlanError(
            f"{adapter.path}: {pair.a} is {'' if pair.embedding else 'not '}for an embedding, "
            f"but {place.name} is {'one' if embedding else 'none'}"
        )
    # Where a weight is stored (inputs, outputs), so is what is added to it. That is so of weights
    # that are transposed as a whole; a part of one may be because GGUF wants it.
    stored_turned = rule.transform is Transform.TRANSPOSED and not place.rows
    turned = embedding or (adapter.side is Side.HF and stored_turned)
    outputs, inputs = pair.b_shape[-2], pair.a_shape[-1]
    shape = (*pair.a_shape[:-2], *((inputs, outputs) if turned else (outputs, inputs)))
    if shape != place.shape:
        raise IncompletePlanError(
            f"{adapter.path}: {pair.a} and {pair.b} change a weight of the shape {list(shape)}, "
            f"but {place.name} of the base {base.path} has {list(place.shape)}",
            hint="was the adapter trained on another base?",
        )
    return _Bound(pair, place.shape, turned)


def _refuse(adapter: Adapter, base: BaseModel, lost: list[Pair]) -> None:
    """Say which modules the base does not have."""
    for pair in lost:
        if base.decoder.tied and pair.module.split(".")[-1] == HEAD:
            raise UnsupportedError(
                f"{adapter.path}: {pair.a} changes the output matrix alone, but in {base.path} it "
                "is the embedding (tie_word_embeddings)",
                hint="give the base an lm_head.weight of its own, or leave lm_head out when "
                "training",
            )
    names = ", ".join(pair.module for pair in lost[:SHOWN])
    more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
    said = f"it says it belongs to {adapter.base!r:.100}" if adapter.base else None
    raise IncompletePlanError(
        f"{adapter.path}: {base.path} ({base.architecture.name}) has no {names}{more}", hint=said
    )
