"""Means of inputs, and what stands for an expert that few tokens came to."""

from __future__ import annotations

import numpy as np

from edgellm.quantization.sums import FEWEST_HELD_OUT, PRIOR_TOKENS, Sums, means_of_experts


def sums(fit: int, held: int, columns: int = 3, seed: int = 0) -> tuple[Sums, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((fit + held, columns)).astype(np.float32) * (1 + seed)
    found = Sums(columns, hessian=True)
    found.add(x[:fit], held_out=False)
    found.add(x[fit:], held_out=True)
    return found, x


def test_fit_and_held_out_are_apart_and_importance_is_of_both() -> None:
    found, x = sums(5, 2)
    mean = found.mean(4, 9)
    assert (mean.start, mean.stop, mean.tokens) == (4, 9, 7)
    np.testing.assert_allclose(mean.hessian, x[:5].T @ x[:5] / 5, rtol=1e-6)
    np.testing.assert_allclose(mean.held_out, x[5:].T @ x[5:] / 2, rtol=1e-6)
    np.testing.assert_allclose(mean.importance, (x**2).mean(axis=0), rtol=1e-6)


def test_vectors_can_be_of_fewer_tokens() -> None:
    found = Sums(2, hessian=True)
    found.add(np.array([[1, 2], [3, 4]], np.float32), held_out=False, tokens=1)
    mean = found.mean(0, 1)
    assert mean.tokens == 1
    assert mean.importance.tolist() == [10, 20]
    assert mean.hessian is not None
    assert mean.hessian.tolist() == [[10, 14], [14, 20]]


def test_an_expert_with_few_tokens_is_drawn_to_the_mean_of_all() -> None:
    parts = [sums(40, FEWEST_HELD_OUT, seed=0), sums(2, 0, seed=1), sums(0, 0, seed=2)]
    many, few, none = means_of_experts([each for each, _ in parts], rows=2)
    everything = np.concatenate([x for _, x in parts]).astype(np.float64)
    overall = (everything**2).mean(axis=0)
    assert [(each.start, each.stop) for each in (many, few, none)] == [(0, 2), (2, 4), (4, 6)]
    assert many.hessian is not None
    assert many.held_out is not None
    np.testing.assert_allclose(many.importance, (parts[0][1] ** 2).mean(axis=0), rtol=1e-5)
    assert few.hessian is None
    own = (parts[1][1].astype(np.float64) ** 2).sum(axis=0)
    wanted = (own + PRIOR_TOKENS * overall) / (2 + PRIOR_TOKENS)
    np.testing.assert_allclose(few.importance, wanted, rtol=1e-5)
    assert (none.tokens, none.hessian) == (0, None)
    np.testing.assert_allclose(none.importance, overall, rtol=1e-5)


def test_an_expert_that_only_held_out_tokens_came_to_has_no_matrix() -> None:
    (mean,) = means_of_experts([sums(0, 50)[0]], rows=1)
    assert mean.hessian is None
    assert mean.held_out is None


def test_few_held_out_tokens_of_an_expert_are_not_judged_by() -> None:
    (mean,) = means_of_experts([sums(30, FEWEST_HELD_OUT - 1)[0]], rows=1)
    assert mean.hessian is not None
    assert mean.held_out is None


def test_experts_without_any_token_have_zeros() -> None:
    (mean,) = means_of_experts([Sums(3, hessian=True)], rows=1)
    assert mean.importance.tolist() == [0, 0, 0]
