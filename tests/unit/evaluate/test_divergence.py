"""The arithmetic on logits against its definition in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.evaluate.divergence import divergence, negative_log_likelihood


def log_softmax(logits):
    """By the definition, in float64; nothing of the code under test."""
    wide = logits.astype(np.float64)
    largest = wide.max(axis=1, keepdims=True)
    return wide - largest - np.log(np.exp(wide - largest).sum(axis=1, keepdims=True))


def sample(seed: int, rows: int, columns: int, spread: float, noise: float):
    rng = np.random.default_rng(seed)
    reference = (rng.normal(size=(rows, columns)) * spread).astype(np.float32)
    logits = (reference + rng.normal(size=(rows, columns)) * noise + 3).astype(np.float32)
    return reference, logits, rng.integers(0, columns, rows)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("rows", "columns", "spread", "noise"),
    [(1, 2, 1, 1), (7, 512, 3, 0.01), (40, 49_152, 4, 0.1), (3, 262_144, 8, 2), (5, 100, 60, 30)],
)
def test_values_are_those_of_the_definition(rows, columns, spread, noise, threads):
    reference, logits, targets = sample(rows, rows, columns, spread, noise)
    there, here = log_softmax(reference), log_softmax(logits)
    found = divergence(reference, logits, targets, threads=threads)
    at = np.arange(rows)
    assert found.kld == pytest.approx(
        (np.exp(there) * (there - here)).sum(axis=1), rel=1e-5, abs=1e-6
    )
    assert found.reference_nll == pytest.approx(-there[at, targets], rel=1e-5, abs=1e-6)
    assert found.nll == pytest.approx(-here[at, targets], rel=1e-5, abs=1e-6)
    assert (found.agree == (there.argmax(axis=1) == here.argmax(axis=1))).all()
    alone = negative_log_likelihood(logits, targets, threads=threads)
    assert np.array_equal(alone, found.nll)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 3000), st.floats(0, 80, width=32)
)
def test_a_model_is_at_no_distance_from_itself(seed, rows, columns, spread):
    reference, _, targets = sample(seed, rows, columns, spread, 0)
    found = divergence(reference, reference.copy(), targets)
    assert (found.kld == 0).all()
    assert found.agree.all()
    assert np.array_equal(found.nll, found.reference_nll)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1e-3))
def test_no_distance_is_negative(seed, noise):
    reference, logits, targets = sample(seed, 4, 2000, 5, noise)
    assert (divergence(reference, logits, targets).kld >= 0).all()


def test_logits_that_are_not_finite_give_values_that_are_not():
    reference, logits, targets = sample(0, 4, 50, 3, 1)
    logits[2, 7] = np.nan
    reference[3, 7] = np.inf
    found = divergence(reference, logits, targets)
    assert np.isfinite(found.kld).tolist() == [True, True, False, False]
    assert np.isfinite(negative_log_likelihood(logits, targets)).tolist() == [
        True,
        True,
        False,
        True,
    ]


def test_shapes_that_do_not_go_together():
    reference, logits, targets = sample(0, 4, 50, 3, 1)
    with pytest.raises(ValueError, match="a reference of"):
        divergence(reference[:, :40], logits, targets)
    with pytest.raises(ValueError, match="for \\(3,\\) tokens"):
        divergence(reference, logits, targets[:3])
    with pytest.raises(ValueError, match="float64"):
        negative_log_likelihood(logits.astype(np.float64), targets)
    with pytest.raises(ValueError, match="outside a vocabulary of 50"):
        negative_log_likelihood(logits, targets + 50)
