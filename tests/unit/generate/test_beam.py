"""Beam search against a search of everything, on a model of random weights."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import tiny
from edgellm.api.convert import convert
from edgellm.backends.base import LoadOptions, get_backend
from edgellm.generate.beam import beam_search

PROMPT = [3, 9, 4]
MOST, BEAMS = 2, 128


def never() -> bool:
    return False


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beam")
    convert(tiny.llama(folder / "hf"), folder / "x.gguf", dtype="f32")
    model = get_backend("llama_cpp").load(folder / "x.gguf", LoadOptions(threads=1), never)
    yield model
    model.close()


@pytest.fixture(scope="module")
def branches(model):
    branches = model.open_branches(len(PROMPT), 12, 128)
    yield branches
    branches.close()


def probabilities(branches, texts):
    """Log-probabilities of what follows texts of one length, by numpy's softmax."""
    branches.prefill(PROMPT, never)
    for place in range(len(texts[0])):
        branches.keep([0] * len(texts) if place == 0 else range(len(texts)))
        branches.step([text[place] for text in texts])
    logits = branches.logits().astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def expected(model, branches, length_penalty: float) -> dict[tuple[int, ...], float]:
    """Score the texts of two tokens at most whose first one is among the best `BEAMS`."""
    first = probabilities(branches, [()])[0]
    going = [token for token in np.argsort(-first).tolist() if token not in model.end_tokens]
    going = going[:BEAMS]
    second = probabilities(branches, [(token,) for token in going])
    pairs = {
        (token, after): first[token] + second[row, after]
        for row, token in enumerate(going)
        for after in range(model.vocabulary_size)
    }
    best = sorted(pairs, key=lambda tokens: -pairs[tokens])[:BEAMS]
    ends = [token for token in np.argsort(-first)[:BEAMS].tolist() if token in model.end_tokens]
    found = {tokens: pairs[tokens] / 2**length_penalty for tokens in best}
    found |= {(token,): first[token] for token in ends}
    return dict(sorted(found.items(), key=lambda item: -item[1])[:BEAMS])


def search(model, branches, **options):
    values = {"length_penalty": 1.0, "stop": (), "most": MOST, "full": "length"} | options
    return beam_search(
        model, branches, PROMPT, cancelled=never, progress=lambda _done, _tokens: None, **values
    )


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.0])
def test_many_beams_find_what_a_search_of_everything_finds(model, branches, length_penalty):
    beams = search(model, branches, beams=BEAMS, length_penalty=length_penalty)
    wanted = expected(model, branches, length_penalty)
    assert [beam.tokens for beam in beams] == list(wanted)
    for beam in beams:
        assert beam.score == pytest.approx(wanted[beam.tokens], rel=1e-4)
        ended = beam.tokens[-1] in model.end_tokens
        assert beam.finish_reason == ("stop" if ended else "length")
    assert len({len(beam.tokens) for beam in beams}) == (2 if length_penalty < 0 else 1)


def test_one_beam_is_greedy(model, branches):
    (beam,) = search(model, branches, beams=1, most=12)
    branches.prefill(PROMPT, never)
    for token in beam.tokens:
        assert token == branches.logits()[0].argmax()
        branches.step([token])


def test_more_beams_find_no_worse_text(model, branches):
    best = [search(model, branches, beams=n, most=8, length_penalty=0)[0] for n in (1, 4, 64)]
    scores = [beam.log_probability for beam in best]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1]


def test_a_stop_string_ends_a_text(model, branches):
    (greedy,) = search(model, branches, beams=1, most=12)
    stop = greedy.text[len(greedy.text) // 2 :][:2]
    (found,) = search(model, branches, beams=1, most=12, stop=(stop,))
    assert (found.text, found.finish_reason) == (greedy.text.partition(stop)[0], "stop")


def test_a_search_that_is_stopped_gives_what_it_has(model, branches):
    event = threading.Event()
    found = beam_search(
        model, branches, PROMPT, beams=3, most=12, full="length", length_penalty=1.0, stop=(),
        cancelled=event.is_set,
        progress=lambda _done, tokens: event.set() if tokens == 4 else None,
    )  # fmt: skip
    assert {len(beam.tokens) for beam in found} <= {1, 2, 3, 4}
    event.set()
    stopped = {"cancelled": event.is_set, "progress": lambda _done, _tokens: None}
    assert beam_search(
        model, branches, PROMPT, beams=3, most=12, full="length", length_penalty=1.0, stop=(),
        **stopped,
    ) == []  # fmt: skip
