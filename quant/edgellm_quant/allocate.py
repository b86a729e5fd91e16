"""Which format each tensor gets, so that the harm is least under a number of bytes.

Each tensor takes one of several options, with a size and a cost; costs of tensors add up. To choose
one option for each, with the least sum of costs under a limit of bytes, is the multiple-choice
knapsack problem (Sinha and Zoltners 1979). It is solved in two steps:

1. The linear relaxation: only options on the lower convex hull of (size, cost) matter, and taking
   their steps by falling gain per byte is optimal. Its dual price of a byte gives every option a
   reduced cost, and the whole a lower bound.
2. What an option's reduced cost exceeds the gap between that bound and the best known choice by
   cannot be part of a better one. The few options that are left are combined by dynamic programming
   over the undominated pairs of (size, cost) (Pisinger 1995, "A minimal algorithm for the
   multiple-choice knapsack problem").

The answer is optimal as long as no more than `STATES` pairs are alive at once; beyond that the
dearest are dropped, and the lower bound says what that can have cost at most.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgellm_quant.errors import BudgetError, QuantError
from edgellm_quant.formats import Format

__all__ = ["Allocation", "Option", "allocate", "padded_bytes", "smallest_within"]

STATES = 50_000
SMALLEST = 1e-200  # of a cost that is not 0

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Option:
    """A tensor in a format: `nbytes` as stored, padding included, and what it costs (>= 0)."""

    format: Format
    nbytes: int
    cost: float


@dataclass(frozen=True, slots=True)
class Allocation:
    """A choice for each tensor: the index of its option.

    `bound` is a lower bound of what was minimised (cost, or bytes): no choice within the limit has
    less. Where `optimal` it is what was reached.
    """

    choices: tuple[int, ...]
    nbytes: int
    cost: float
    bound: float
    optimal: bool


def padded_bytes(fmt: Format, shape: Sequence[int], alignment: int = 1) -> int:
    """Give the bytes that a tensor takes in a file, padding included.

    Args:
        fmt: how it is stored.
        shape: in numpy's order (columns last).
        alignment: of tensors in the file: general.alignment in GGUF, 1 in safetensors.

    Raises:
        ShapeError: the format does not hold rows of so many columns.
    """
    rows = 1
    for size in shape[:-1]:
        rows *= size
    return -(-rows * fmt.row_bytes(shape[-1]) // alignment) * alignment


def allocate(tensors: Sequence[Sequence[Option]], budget: int) -> Allocation:
    """Choose the options of least cost that take `budget` bytes at most.

    Args:
        tensors: the options of each tensor.
        budget: bytes for all of them.

    Raises:
        BudgetError: the smallest options take more bytes.
        QuantError: a tensor has no option, or a cost is negative, not finite or below 1e-200.
    """
    return _solve(tensors, float(budget), by_cost=True)


def smallest_within(tensors: Sequence[Sequence[Option]], cost: float) -> Allocation:
    """Choose the options that take the fewest bytes and cost `cost` at most.

    Args:
        tensors: the options of each tensor.
        cost: the limit of the sum.

    Raises:
        BudgetError: the least costs are above it.
        QuantError: a tensor has no option, or a cost is negative, not finite or below 1e-200.
    """
    return _solve(tensors, cost, by_cost=False)


@dataclass(frozen=True, slots=True)
class _Class:
    """The options of a tensor that nothing dominates, by rising weight and falling value."""

    index: NDArray[np.intp]
    weight: Numbers
    value: Numbers

    def hull(self) -> list[int]:
        """Give the positions on the lower convex hull."""
        kept: list[int] = []
        for at in range(len(self.weight)):
            while len(kept) > 1 and self._slope(kept[-2], kept[-1]) <= self._slope(kept[-1], at):
                kept.pop()
            kept.append(at)
        return kept

    def _slope(self, before: int, after: int) -> float:
        """Give the value that a step saves per unit of weight."""
        saved = self.value[before] - self.value[after]
        return float(saved / (self.weight[after] - self.weight[before]))


def _solve(tensors: Sequence[Sequence[Option]], limit: float, *, by_cost: bool) -> Allocation:
    """Minimise the sum of values under a limit of the sum of weights."""
    classes = [_undominated(options, by_cost=by_cost) for options in tensors]
    least = sum(float(each.weight[0]) for each in classes)
    if least > limit * (1 + 1e-12) or not limit >= 0:
        what = "bytes" if by_cost else "of cost"
        raise BudgetError(f"the least choice takes {least:.12g} {what}, the limit is {limit:.12g}")
    picks, price = _relaxed(classes, limit - least)
    chosen, bound, optimal = _improved(classes, limit, picks, price)
    indices = tuple(int(each.index[at]) for each, at in zip(classes, chosen, strict=True))
    taken = [options[at] for options, at in zip(tensors, indices, strict=True)]
    return Allocation(
        indices,
        sum(option.nbytes for option in taken),
        sum(option.cost for option in taken),
        bound,
        optimal,
    )


def _undominated(options: Sequence[Option], *, by_cost: bool) -> _Class:
    if not options:
        raise QuantError("a tensor without any format to choose from")
    sizes = np.array([option.nbytes for option in options], np.float64)
    costs = np.array([option.cost for option in options], np.float64)
    if not (np.isfinite(costs).all() and costs.min() >= 0):
        raise QuantError("a cost that is negative or not finite")
    if costs[costs > 0].min(initial=np.inf) < SMALLEST:
        raise QuantError(f"a cost below {SMALLEST:g}, whose share of anything overflows")
    weight, value = (sizes, costs) if by_cost else (costs, sizes)
    order = np.lexsort((value, weight))
    best = np.minimum.accumulate(value[order])
    first = np.concatenate(([True], best[1:] < best[:-1]))
    order = order[first]
    # Of equal weights the first has the least value; later ones of them are no better.
    return _Class(order, weight[order], value[order])


def _relaxed(classes: Sequence[_Class], room: float) -> tuple[list[int], float]:
    """Take steps along the hulls by falling gain: a choice that fits, and the price of weight."""
    steps = []
    for number, each in enumerate(classes):
        hull = each.hull()
        for before, after in itertools.pairwise(hull):
            steps.append((-each._slope(before, after), number, before, after))
    steps.sort()
    picks = [0] * len(classes)
    price = 0.0
    for slope, number, before, after in steps:
        each = classes[number]
        more = float(each.weight[after] - each.weight[before])
        if picks[number] == before and more <= room:
            room -= more
            picks[number] = after
        elif price == 0.0:
            price = -slope  # the first step that does not fit: the relaxation splits it
    return picks, price


def _improved(
    classes: Sequence[_Class], limit: float, picks: list[int], price: float
) -> tuple[list[int], float, bool]:
    """Search what is better than `picks`: the choice, a lower bound, and whether it is optimal."""
    value = sum(float(each.value[at]) for each, at in zip(classes, picks, strict=True))
    priced = [each.value + price * each.weight for each in classes]
    base = [float(each.min()) for each in priced]
    bound = max(sum(base) - price * limit, sum(float(each.value[-1]) for each in classes))
    gap = value - bound
    tolerance = 1e-12 * max(abs(value), abs(bound))
    if gap <= tolerance:
        return picks, value, True
    reduced = [each - least for each, least in zip(priced, base, strict=True)]
    alive = [np.flatnonzero(each <= gap) for each in reduced]
    chosen, complete = _combine(classes, reduced, alive, limit, gap)
    if chosen is not None:
        found = sum(float(each.value[at]) for each, at in zip(classes, chosen, strict=True))
        if found < value:
            picks, value = chosen, found
    return picks, value if complete else min(bound, value), complete


def _combine(
    classes: Sequence[_Class],
    reduced: Sequence[Numbers],
    alive: Sequence[NDArray[np.intp]],
    limit: float,
    gap: float,
) -> tuple[list[int] | None, bool]:
    """Combine the options that are left, keeping the undominated sums.

    A state is (weight, value, reduced cost) of the classes so far; reduced costs only grow, so a
    state beyond the gap leads nowhere.
    """
    rest = sum(float(each.weight[0]) for each in classes)
    weights, values, prices = (np.zeros(1) for _ in range(3))
    trace: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = []
    complete = True
    for each, costs, options in zip(classes, reduced, alive, strict=True):
        rest -= float(each.weight[0])
        # (states, options), flat
        weight = np.add.outer(weights, each.weight[options]).ravel()
        value = np.add.outer(values, each.value[options]).ravel()
        price = np.add.outer(prices, costs[options]).ravel()
        kept = np.flatnonzero((price <= gap) & (weight + rest <= limit * (1 + 1e-12)))
        kept = kept[np.lexsort((value[kept], weight[kept]))]
        least = np.minimum.accumulate(value[kept])
        if len(kept):
            kept = kept[np.concatenate(([True], least[1:] < least[:-1]))]
        if len(kept) > STATES:
            complete = False
            kept = np.sort(kept[np.argpartition(price[kept], STATES)[:STATES]])
        if not len(kept):
            return None, complete
        weights, values, prices = weight[kept], value[kept], price[kept]
        trace.append(
            ((kept // len(options)).astype(np.int32), options[kept % len(options)].astype(np.int32))
        )
    at = int(values.argmin())
    chosen = []
    for parents, taken in reversed(trace):
        chosen.append(int(taken[at]))
        at = int(parents[at])
    return chosen[::-1], complete
