"""Watching the products of a text: what is summed of each input, and when all was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgellm.backends.llama_cpp.tensor import Tensor
from edgellm.errors import BackendError
from edgellm.quantization.inputs import Attention, Input
from edgellm.quantization.sums import Sums, means_of_experts
from edgellm_quant.statistics import RowStatistics, TensorStatistics

__all__ = ["Unit", "Watch", "Watched"]

Floats = NDArray[np.float32]


@dataclass(slots=True)
class Unit:
    """An input that is watched in a pass, and what is summed of it."""

    of: Input
    hessian: bool
    attentions: dict[str, Attention]  # of the weights whose values are averaged
    bytes: int


class Watched:
    """The sums of one input."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        of = unit.of
        self.sums = [Sums(of.columns, unit.hessian) for _ in range(of.matrices)]
        self.averaged = {
            name: [Sums(of.columns, True) for _ in range(attention.groups)]
            for name, attention in unit.attentions.items()
        }

    def add(self, product: Tensor, held: bool) -> Floats:
        """Add the inputs of a product; gives them where they are rows alone.

        Where they are read early, `product` is the node that computes them.
        """
        node = product if self.unit.of.early else product.source(1)
        assert node is not None  # of a product
        x = np.asarray(node.read(), np.float32)  # (.., .., tokens, columns)
        of = self.unit.of
        if of.experts:
            self._add_experts(product, x[0], held)
        elif of.matrices == 1:
            rows = x.reshape(-1, of.columns)
            self.sums[0].add(rows, held)
            return rows
        else:
            # Inputs are spread over the stack as ggml does: each matrix has its share.
            stacked = x.reshape(of.matrices, -1, of.columns)
            for sums, rows in zip(self.sums, stacked, strict=True):
                sums.add(rows, held)
        return x[:0, 0, 0]

    def _add_experts(self, product: Tensor, x: Floats, held: bool) -> None:
        """Add inputs (tokens, used or 1, columns) to the experts that the third operand numbers."""
        ids = product.source(2)
        assert ids is not None  # of a product with experts
        chosen = ids.read()[0, 0]  # (tokens, used)
        x = np.broadcast_to(x, (*chosen.shape, x.shape[-1]))
        for expert in np.unique(chosen):
            self.sums[expert].add(np.ascontiguousarray(x[chosen == expert]), held)

    def add_averages(self, name: str, probabilities: Floats, x: Floats, held: bool) -> None:
        """Add inputs as attention averages them.

        Args:
            name: the weight.
            probabilities: (heads, tokens, cells).
            x: (cells that are in use, columns).
            held: whether they are held out.
        """
        groups = self.averaged[name]
        share, tokens = len(probabilities) // len(groups), probabilities.shape[1]
        if probabilities[..., len(x) :].any():
            raise BackendError(f"the attention of {name!r} looks at more tokens than there are")
        for number, sums in enumerate(groups):
            heads = probabilities[number * share : (number + 1) * share, :, : len(x)]
            averages = heads.reshape(-1, len(x)) @ x  # (heads of the group * tokens, columns)
            sums.add(averages, held, tokens)

    def statistics(self) -> dict[str, TensorStatistics]:
        """Give the means, by the names of the weights."""
        of = self.unit.of
        plain: dict[int, tuple[RowStatistics, ...]] = {}
        found = {}
        mean: RowStatistics | None = None
        for weight in of.weights:
            attention = self.unit.attentions.get(weight.name)
            groups: tuple[RowStatistics, ...]
            if of.experts or of.matrices > 1:
                if weight.rows not in plain:
                    plain[weight.rows] = self._stack(weight.rows, plain)
                groups = plain[weight.rows]
            else:
                mean = mean or self.sums[0].mean(0, 1)
                stop = attention.first_row if attention else weight.rows
                groups = (_moved(mean, 0, stop),) if stop else ()
                if attention:
                    groups += tuple(
                        each.mean(stop + at * attention.size, stop + (at + 1) * attention.size)
                        for at, each in enumerate(self.averaged[weight.name])
                    )
            if not all(np.isfinite(group.importance).all() for group in groups):
                raise BackendError(
                    f"what {weight.name!r} is multiplied with is not finite",
                    hint="the model overflows on this text: a file in float32 may not",
                )
            found[weight.name] = TensorStatistics(of.columns, groups)
        return found

    def _stack(
        self, rows: int, known: Mapping[int, tuple[RowStatistics, ...]]
    ) -> tuple[RowStatistics, ...]:
        """Give the means of each matrix of a stack, in the arrays of other rows if known."""
        for groups in known.values():
            return tuple(
                _moved(group, at * rows, (at + 1) * rows) for at, group in enumerate(groups)
            )
        if self.unit.of.experts:
            return means_of_experts(self.sums, rows)
        return tuple(each.mean(at * rows, (at + 1) * rows) for at, each in enumerate(self.sums))


def _moved(of: RowStatistics, start: int, stop: int) -> RowStatistics:
    return RowStatistics(start, stop, of.tokens, of.importance, of.hessian, of.held_out)


class Watch:
    """Watches one text."""

    def __init__(self, watched: Sequence[Watched], held: bool, attending: bool) -> None:
        self._held = held
        self._products = {each.unit.of.probe: each for each in watched if not each.unit.of.early}
        self._early = {each.unit.of.early: each for each in watched if each.unit.of.early}
        self._averages = {
            attention.probabilities: (each, name)
            for each in watched
            for name, attention in each.unit.attentions.items()
            if attending
        }
        # The inputs of the values, of all of the text so far, by the probe.
        self._inputs: dict[str, list[Floats]] = {
            each.unit.of.probe: [] for each, _ in self._averages.values()
        }
        self._left = 0

    def begin(self) -> None:
        """Get ready for a part of the text."""
        self._left = sum(each.unit.of.times for each in self._products.values())
        self._left += len(self._early)
        self._left += len(self._averages)

    def end(self) -> None:
        """Make sure that all was seen.

        Raises:
            BackendError: the graph of this part lacks nodes that the first one had.
        """
        if self._left:
            raise BackendError(f"llama.cpp left out {self._left} of the products that are watched")

    def ask(self, node: Tensor) -> bool:
        """Whether the node is needed."""
        op = node.op
        if op in ("MUL_MAT", "MUL_MAT_ID"):
            weight = node.source(0)
            if weight is not None and weight.name in self._products:
                return True
        if self._early and node.name in self._early:
            return True
        return op == "SOFT_MAX" and node.name in self._averages

    def see(self, node: Tensor) -> bool:
        """Add what a node says; whether there is more to see."""
        self._left -= 1
        if node.name in self._early:
            self._early[node.name].add(node, self._held)
        elif node.op == "SOFT_MAX":
            each, name = self._averages[node.name]
            x = np.concatenate(self._inputs[each.unit.of.probe])
            each.add_averages(name, node.read()[0], x, self._held)
        else:
            weight = node.source(0)
            assert weight is not None  # asked for by its name
            rows = self._products[weight.name].add(node, self._held)
            if weight.name in self._inputs:
                self._inputs[weight.name].append(rows.copy())
        return self._left > 0
