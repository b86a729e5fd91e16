"""Several answers to one prompt, from Python."""

from __future__ import annotations

import dataclasses
import threading
from itertools import pairwise

import numpy as np
import pytest

import edgellm
import tiny
from edgellm.api import fit
from edgellm.api.convert import convert
from edgellm.backends.base import SEED_LIMIT, Sampling
from edgellm.device.profiles import Profile
from edgellm.errors import ContextOverflowError, DoesNotFitError, TemplateError, UsageError
from edgellm.generate.constraint import Regex
from edgellm.generate.template import Message
from tinygguf import PERSIAN, write_tiny

ANSWER = "Hi " + PERSIAN
WARM = Sampling(temperature=40, top_k=0, top_p=1, min_p=0, seed=5)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    with edgellm.load(write_tiny(tmp_path_factory.mktemp("x") / "tiny.gguf"), threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def random(tmp_path_factory):
    folder = tmp_path_factory.mktemp("random")
    convert(tiny.llama(folder / "hf"), folder / "x.gguf", dtype="f32")
    with edgellm.load(folder / "x.gguf", threads=1) as loaded:
        yield loaded


def test_each_answer_is_that_of_its_seed(random):
    sampling = Sampling(temperature=1.5, seed=SEED_LIMIT - 2)
    found = random.samples("the cat", 4, sampling=sampling, max_tokens=12, raw=True)
    assert [c.sample.seed for c in found.candidates] == [SEED_LIMIT - 2, SEED_LIMIT - 1, 0, 1]
    texts = []
    for candidate in found.candidates:
        own = dataclasses.replace(sampling, seed=candidate.sample.seed)
        texts.append(random.complete("the cat", special=True, max_tokens=12, sampling=own).read())
    assert [c.sample.text for c in found.candidates] == [result.text for result in texts]
    assert [c.sample.finish_reason for c in found.candidates] == [r.finish_reason for r in texts]
    assert [c.sample.completion_tokens for c in found.candidates] == [
        result.completion_tokens for result in texts
    ]
    assert len({result.text for result in texts}) == 4
    assert (found.chosen, found.answer, found.votes, found.text) == (None, None, {}, None)
    assert found.completion_tokens == sum(result.completion_tokens for result in texts)


def test_log_probabilities_are_those_of_the_model(random):
    prompt = random.tokenize("the cat")
    found = random.samples("the cat", 2, sampling=WARM, max_tokens=6, raw=True)
    branches = random.model.open_branches(len(prompt), 7, 1)
    for candidate in found.candidates:
        context = random.model.open_context(64)
        own = dataclasses.replace(WARM, seed=candidate.sample.seed)
        context.prefill(prompt, own, lambda: False)
        for _ in range(7):
            context.next_piece()
        tokens = list(context.held)[len(prompt) :]
        context.close()
        branches.prefill(prompt, lambda: False)
        total = 0.0
        for token in tokens:
            row = branches.logits()[0].astype(np.float64)
            total += row[token] - np.log(np.exp(row).sum())
            branches.step([token])
        sample = candidate.sample
        assert sample.completion_tokens == len(tokens) == 6
        assert sample.log_probability == pytest.approx(total, rel=1e-3)
        assert sample.mean_log_probability == pytest.approx(total / 6, rel=1e-3)
    branches.close()


def test_answers_end_by_themselves_and_the_end_counts(loaded):
    found = loaded.samples("x", 3, sampling=Sampling(temperature=0.01))
    for candidate in found.candidates:
        sample = candidate.sample
        assert (sample.text, sample.finish_reason) == (ANSWER, "stop")
        assert sample.completion_tokens == len(ANSWER.encode())
        assert sample.mean_log_probability == pytest.approx(
            sample.log_probability / (sample.completion_tokens + 1)
        )


def test_stop_strings_and_limits(loaded):
    cold = Sampling(temperature=0.01)
    (one,) = loaded.samples("x", 1, sampling=cold, stop=["i"]).candidates
    assert (one.sample.text, one.sample.finish_reason) == ("H", "stop")
    (one,) = loaded.samples("x", 1, sampling=cold, max_tokens=2).candidates
    assert (one.sample.text, one.sample.finish_reason) == ("Hi", "length")
    (one,) = loaded.samples("x", 1, sampling=cold, max_tokens=0).candidates
    assert (one.sample.text, one.sample.completion_tokens) == ("", 0)
    letters = "x" * (512 - loaded.count_tokens("") - 3)
    (one,) = loaded.samples(letters, 1, sampling=cold).candidates
    assert (one.sample.text, one.sample.finish_reason) == ("Hi ", "context")
    with pytest.raises(ContextOverflowError):
        loaded.samples(letters + "xxx", 1)


def test_the_majority_is_chosen_and_of_it_the_likeliest(loaded):
    form = Regex("[4-6]")
    found = loaded.samples("x", 25, vote="number", sampling=WARM, constraint=form, max_tokens=4)
    answers = [candidate.answer for candidate in found.candidates]
    assert {*answers} == {"4", "5", "6"}
    assert found.votes == {answer: answers.count(answer) for answer in found.votes}
    assert all(before >= after for before, after in pairwise(found.votes.values()))
    assert found.answer == next(iter(found.votes)) == found.text
    voted = [c.sample.mean_log_probability for c in found.candidates if c.answer == found.answer]
    assert found.candidates[found.chosen].sample.mean_log_probability == max(voted)


def test_without_an_answer_nothing_is_chosen(loaded):
    found = loaded.samples("x", 3, vote="number", sampling=Sampling(temperature=0.01))
    assert (found.chosen, found.answer, found.votes) == (None, None, {})


def test_the_likeliest_is_chosen(loaded):
    found = loaded.samples("x", 9, best="likelihood", sampling=WARM, max_tokens=5)
    likely = [candidate.sample.mean_log_probability for candidate in found.candidates]
    assert likely[found.chosen] == max(likely) > min(likely)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    convert(tiny.MODELS["llama-bpe"](folder / "hf"), folder / "x.gguf", dtype="f32")
    with edgellm.load(folder / "x.gguf", threads=1) as judge:
        yield judge


def test_the_judge_says_yes_or_no(loaded, judge, random):
    found = loaded.samples("x", 4, best="judge", judge=judge, sampling=WARM, max_tokens=5)
    grades = [candidate.grade for candidate in found.candidates]
    assert all(0 < grade < 1 for grade in grades)
    assert len({*grades}) > 1
    assert grades[found.chosen] == max(grades)
    again = loaded.samples("x", 4, best="judge", judge=judge, sampling=WARM, max_tokens=5)
    assert [c.grade for c in again.candidates] == pytest.approx(grades)
    with pytest.raises(UsageError, match="no tokens for Yes"):  # of which only letters are tokens
        loaded.samples("x", 2, best="judge", judge=random, max_tokens=2)
    own = loaded.samples("x", 2, best="judge", sampling=WARM, max_tokens=2)
    assert all(candidate.grade is not None for candidate in own.candidates)


def test_messages_and_a_system_prompt(loaded):
    turns = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    cold = Sampling(temperature=0.01)
    found = loaded.samples(turns, 2, system="Be brief.", sampling=cold)
    whole = [Message("system", "Be brief."), *turns]
    assert found.prompt_tokens == loaded.count_tokens(whole)
    with pytest.raises(UsageError, match="no messages"):
        loaded.samples(turns, 2, raw=True)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"n": 0}, "1 to 128"),
        ({"n": 129}, "1 to 128"),
        ({"n": 2, "vote": "number", "best": "judge"}, "take one"),
        ({"n": 2, "best": "beauty"}, "beauty"),
        ({"n": 2, "vote": "("}, "regular expression"),
        ({"n": 2, "sampling": Sampling(temperature=0)}, "temperature 0"),
        ({"n": 2, "constraint": Regex("(")}, "regular expression"),
    ],
)
def test_what_cannot_be_is_refused(loaded, fields, sentence):
    with pytest.raises(UsageError, match=sentence):
        loaded.samples("x", **fields)


def test_what_beams_do_not_take_is_refused(loaded):
    with pytest.raises(UsageError, match="constraint"):
        loaded.beams("x", 2, constraint=Regex("a"))
    for fields in ({"n": 0}, {"n": 2, "length_penalty": float("nan")}):
        with pytest.raises(UsageError):
            loaded.beams("x", **fields)


def test_beams(loaded):
    found = loaded.beams("x", 3)
    assert (found.beams[0].text, found.beams[0].finish_reason) == (ANSWER, "stop")
    scores = [beam.score for beam in found.beams]
    assert scores == sorted(scores, reverse=True)
    assert found.beams[0].score > found.beams[-1].score


def test_memory_is_checked_before_anything_is_opened(tmp_path, monkeypatch):
    path = write_tiny(tmp_path / "tiny.gguf", context=8192)
    with edgellm.load(path, threads=1) as loaded:
        # 128 answers of 4096 tokens: 2 layers x 2 x 320 numbers of two bytes for each token
        needed = 128 * 4096 * 2 * 2 * 320 * 2
        free = Profile("here", needed, 0)
        monkeypatch.setattr(fit, "get_profile", lambda _name: free)
        with pytest.raises(DoesNotFitError, match="128 answers at once") as caught:
            loaded.samples("x", 128, max_tokens=4096)
        assert "-n" in caught.value.hint
        loaded.samples("x", 2, max_tokens=10)


def test_a_cancelled_run_gives_what_is_written(loaded):
    cancel = threading.Event()
    told = []

    def progress(what, done, total):
        told.append((what, done, total))
        if done >= 6:
            cancel.set()

    found = loaded.samples(
        "x", 3, sampling=WARM, max_tokens=50, cancel=cancel, on_progress=progress
    )
    assert found.cancelled
    assert told[0] == ("0 of 3 answers", 3, 150)
    assert [c.sample.completion_tokens for c in found.candidates] == [2, 2, 2]
    assert {c.sample.finish_reason for c in found.candidates} == {"cancelled"}
    found = loaded.samples("x", 3, cancel=cancel)  # it is set before the prompt is read
    assert [c.sample.text for c in found.candidates] == [""] * 3
    assert loaded.beams("x", 3, cancel=cancel).beams == ()


def test_a_model_without_a_template_continues_the_text(tmp_path):
    path = write_tiny(tmp_path / "base.gguf", template=None)
    with edgellm.load(path, threads=1) as loaded:
        found = loaded.samples("a", 2, sampling=Sampling(temperature=0.01), max_tokens=6)
        assert [c.sample.text for c in found.candidates] == ["bcdefg"] * 2
        with pytest.raises(TemplateError):
            _ = loaded.template
