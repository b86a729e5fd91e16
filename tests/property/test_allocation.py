"""The knapsack finds what trying everything finds, and what another program finds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm_quant import allocate as module
from edgellm_quant.allocate import Option, allocate, padded_bytes, smallest_within
from edgellm_quant.errors import BudgetError, QuantError
from edgellm_quant.formats import FORMATS, MLXFormat

F = FORMATS["Q8_0"]

OPTIONS = st.lists(
    st.builds(
        Option,
        st.just(F),
        st.integers(1, 40),
        st.one_of(st.integers(0, 20).map(float), st.floats(1e-9, 20)),
    ),
    min_size=1,
    max_size=5,
)
TENSORS = st.lists(OPTIONS, min_size=1, max_size=4)


@settings(max_examples=120)
@given(TENSORS, st.integers(1, 200))
def test_the_least_cost_is_that_of_all_combinations(
    tensors: list[list[Option]], budget: int
) -> None:
    everything = [
        sum(option.cost for option in choice)
        for choice in itertools.product(*tensors)
        if sum(option.nbytes for option in choice) <= budget
    ]
    if not everything:
        with pytest.raises(BudgetError):
            allocate(tensors, budget)
        return
    found = allocate(tensors, budget)
    taken = [options[at] for options, at in zip(tensors, found.choices, strict=True)]
    assert found.nbytes == sum(option.nbytes for option in taken) <= budget
    assert found.cost == sum(option.cost for option in taken)
    assert found.optimal
    assert math.isclose(found.cost, min(everything), rel_tol=1e-9, abs_tol=1e-9)


@settings(max_examples=120)
@given(TENSORS, st.floats(0, 60))
def test_the_fewest_bytes_are_those_of_all_combinations(
    tensors: list[list[Option]], limit: float
) -> None:
    everything = [
        sum(option.nbytes for option in choice)
        for choice in itertools.product(*tensors)
        if sum(option.cost for option in choice) <= limit
    ]
    if not everything:
        with pytest.raises(BudgetError):
            smallest_within(tensors, limit)
        return
    found = smallest_within(tensors, limit)
    assert found.cost <= limit * (1 + 1e-9)
    # A rounding error in the sum may let in what the exact sum keeps out, and nothing more.
    nearly = [
        sum(option.nbytes for option in choice)
        for choice in itertools.product(*tensors)
        if sum(option.cost for option in choice) <= limit * (1 + 1e-9)
    ]
    assert min(nearly) <= found.nbytes <= min(everything)


def by_table(tensors: list[list[Option]], budget: int) -> float:
    """Least cost by the textbook's table over every number of bytes."""
    table = np.zeros(budget + 1)
    for options in tensors:
        following = np.full(budget + 1, np.inf)
        for option in options:
            if option.nbytes <= budget:
                shifted = table[: budget + 1 - option.nbytes] + option.cost
                following[option.nbytes :] = np.minimum(following[option.nbytes :], shifted)
        table = following
    return float(table[budget])


def model(rng: np.random.Generator, layers: int, unit: int) -> list[list[Option]]:
    """Options like those of a model: bytes by bits, cost falling by four for each bit."""
    tensors = []
    for _ in range(layers):
        for rows in (4, 1, 1, 4, 12, 12, 12):
            scale = rng.lognormal(sigma=1.5) * 1e-3
            tensors.append(
                [
                    Option(F, rows * bits * unit // 16, scale * 4 ** -(bits / 16) * noise)
                    for bits, noise in zip(
                        (33, 42, 49, 55, 68, 72, 88, 105, 136),
                        rng.uniform(0.7, 1.3, 9),
                        strict=True,
                    )
                ]
            )
    return tensors


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("unit", [16, 17])
def test_models_of_many_tensors_are_solved_as_by_a_table(seed: int, unit: int) -> None:
    rng = np.random.default_rng(seed)
    tensors = model(rng, 6, unit)
    least = sum(min(option.nbytes for option in options) for options in tensors)
    most = sum(max(option.nbytes for option in options) for options in tensors)
    for budget in (least, int(rng.integers(least, most)), most - 1, 2 * most):
        found = allocate(tensors, budget)
        assert found.optimal
        assert found.nbytes <= budget
        assert math.isclose(found.cost, by_table(tensors, budget), rel_tol=1e-9)
        assert found.bound == found.cost
        back = smallest_within(tensors, found.cost * (1 + 1e-9))
        assert back.nbytes <= found.nbytes


def test_where_the_search_is_cut_short_the_bound_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    tensors = model(rng, 12, 17)
    budget = sum(min(option.nbytes for option in options) for options in tensors) * 3 // 2
    exact = by_table(tensors, budget)
    monkeypatch.setattr(module, "STATES", 3)
    found = allocate(tensors, budget)
    assert not found.optimal
    assert found.bound <= exact * (1 + 1e-9)
    assert exact * (1 - 1e-9) <= found.cost <= 1.02 * found.bound


def test_more_than_everything_takes_the_best_of_everything() -> None:
    tensors = [[Option(F, 10, 1.0), Option(F, 20, 0.5)], [Option(F, 5, 2.0)]]
    found = allocate(tensors, 1000)
    assert (found.choices, found.nbytes, found.cost) == ((1, 0), 25, 2.5)


def test_no_options_and_costs_that_are_none_are_refused() -> None:
    with pytest.raises(QuantError, match="without any format"):
        allocate([[]], 10)
    for cost in (-1.0, math.nan, math.inf):
        with pytest.raises(QuantError, match="negative or not finite"):
            allocate([[Option(F, 1, cost)]], 10)
    with pytest.raises(BudgetError, match="takes 7 bytes, the limit is 6"):
        allocate([[Option(F, 7, 0.0)]], 6)


def test_padding_is_that_of_the_file() -> None:
    # 3 rows of 18 bytes, to the next multiple of 32
    assert padded_bytes(FORMATS["Q4_0"], (3, 32), 32) == 64
    assert padded_bytes(FORMATS["Q4_0"], (3, 32)) == 54
    assert padded_bytes(FORMATS["F32"], (8,), 32) == 32
    assert padded_bytes(MLXFormat("affine", 4, 64, "F16"), (2, 3, 64)) == 6 * (32 + 4)
