"""Several continuations of one prompt, evaluated together, on every backend."""

from __future__ import annotations

import numpy as np
import pytest

import tiny
from edgellm.backends.base import CancelledError, Sampling
from edgellm.errors import BackendError, UsageError
from edgellm.generate.constraint import Regex, compile_constraint

PROMPT = [3, 9, 4, 11, 7, 22, 5]
WARM = Sampling(temperature=1.5, top_k=0, top_p=1, min_p=0, seed=11)


def never() -> bool:
    return False


# plain attention, a sliding window, states that cannot be cut
@pytest.fixture(scope="module", params=["llama", "gemma3", "lfm2"])
def random(request, subject, tmp_path_factory):
    """A model of random weights, whose logits depend on all that was before."""
    folder = tmp_path_factory.mktemp("random")
    model = subject.load(subject.convert(tiny.MODELS[request.param](folder / "hf"), folder / "x"))
    yield model
    model.close()


def alone(model, sampling: Sampling, count: int) -> list[int]:
    """Tokens of a context with one text."""
    context = model.open_context(64)
    context.prefill(PROMPT, sampling, never)
    for _ in range(count + 1):
        context.next_piece()
    found = list(context.held)[len(PROMPT) :]
    context.close()
    return found


def after(model, tokens: list[int]) -> np.ndarray:
    """Logits behind tokens that were evaluated by themselves."""
    branches = model.open_branches(len(tokens), 1, 1)
    branches.prefill(tokens, never)
    found = branches.logits()[0]
    branches.close()
    return found


def test_each_branch_writes_what_a_context_writes_with_its_seed(random):
    count, steps = 5, 12
    branches = random.open_branches(len(PROMPT), steps, count)
    branches.prefill(PROMPT, never)
    assert branches.count == 1
    branches.keep([0] * count)
    seeds = [Sampling(temperature=1.5, top_k=9, seed=11 + at) for at in range(count)]
    choosers = [branches.chooser(sampling) for sampling in seeds]
    texts: list[list[int]] = [[] for _ in range(count)]
    for _ in range(steps):
        tokens = [chooser.choose(at) for at, chooser in enumerate(choosers)]
        for text, token in zip(texts, tokens, strict=True):
            text.append(token)
        branches.step(tokens)
    branches.close()
    branches.close()
    assert texts == [alone(random, sampling, steps) for sampling in seeds]
    assert len({tuple(text) for text in texts}) == count


def test_branches_are_split_reordered_and_dropped(random):
    numbers = np.random.default_rng(4)
    branches = random.open_branches(len(PROMPT), 10, 4)
    branches.prefill(PROMPT, never)
    texts = [list(PROMPT)]
    for _ in range(10):
        parents = numbers.integers(0, len(texts), numbers.integers(1, 5)).tolist()
        branches.keep(parents)
        tokens = numbers.integers(3, 30, len(parents)).tolist()
        texts = [[*texts[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        branches.step(tokens)
        assert branches.count == len(texts)
        found = branches.logits()
        for row, text in zip(found, texts, strict=True):
            np.testing.assert_allclose(row, after(random, text), atol=0.02)
    branches.close()


def test_a_split_before_a_step_shares_the_logits(random):
    branches = random.open_branches(len(PROMPT), 4, 3)
    branches.prefill(PROMPT, never)
    branches.keep([0, 0])
    branches.step([4, 5])
    four, five = branches.logits()
    branches.keep([1, 0, 1])
    np.testing.assert_array_equal(branches.logits(), [five, four, five])
    assert branches.chooser(Sampling(temperature=0)).choose(1) == four.argmax()
    branches.close()


def test_another_prompt_forgets_all(random):
    branches = random.open_branches(len(PROMPT), 4, 2)
    branches.prefill(PROMPT[:3], never)
    branches.keep([0, 0])
    branches.step([4, 5])
    branches.prefill(PROMPT, never)
    assert branches.count == 1
    np.testing.assert_allclose(branches.logits()[0], after(random, PROMPT), atol=1e-6)
    branches.close()


def test_the_penalties_of_a_branch_see_the_prompt(model):
    branches = model.open_branches(8, 4, 2)
    branches.prefill(model.tokenize("bba", special=False), never)
    greedy, penalized = Sampling(temperature=0), Sampling(temperature=0, presence_penalty=100)
    found = [branches.chooser(sampling).choose(0) for sampling in (greedy, penalized)]
    assert [model.piece(token) == b"b" for token in found] == [True, False]
    branches.close()


def test_a_mask_leaves_the_allowed_tokens_alone(model):
    branches = model.open_branches(8, 4, 1)
    branches.prefill(model.tokenize("a", special=False), never)
    constraint = compile_constraint(model, Regex("[x-z]"))
    for sampling in (Sampling(temperature=0), WARM, Sampling(xtc_probability=1, seed=3)):
        token = branches.chooser(sampling).choose(0, constraint.mask())
        assert model.piece(token) in (b"x", b"y", b"z")
    branches.close()


def test_what_cannot_be_is_refused(model):
    branches = model.open_branches(8, 2, 2)
    with pytest.raises(CancelledError):
        branches.prefill(model.tokenize("abc", special=False), lambda: True)
    with pytest.raises(BackendError, match="30 tokens"):
        branches.prefill(model.tokenize("a" * 30, special=False), never)
    branches.prefill(model.tokenize("abc", special=False), never)
    with pytest.raises(BackendError, match="3 branches"):
        branches.keep([0, 0, 0])
    with pytest.raises(BackendError, match="2 tokens for 1"):
        branches.step([5, 5])
    branches.close()
    with pytest.raises(UsageError, match="closed"):
        branches.prefill([5], never)


@pytest.mark.parametrize("cache_type", ["q8_0", "q4_0"])
def test_quantized_caches_hold_branches(model, cache_type):
    branches = model.open_branches(8, 8, 3, cache_type)
    branches.prefill(model.tokenize("x", special=False), never)
    branches.keep([0, 0, 0])
    branches.step(model.tokenize("ace", special=False))
    branches.keep([2, 0])
    greedy = branches.chooser(Sampling(temperature=0))
    assert [model.piece(greedy.choose(at)) for at in (0, 1)] == [b"f", b"b"]
    branches.close()
