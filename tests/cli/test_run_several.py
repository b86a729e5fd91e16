"""`edgellm run` with several answers."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest

from tinygguf import PERSIAN, write_tiny

ANSWER = "Hi " + PERSIAN
COLD = ["--temp", "0.01", "--seed", "3"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    return str(write_tiny(tmp_path_factory.mktemp("seven") / "seven.gguf", answer="3+4=7!"))


def test_all_samples_are_written(call, tiny):
    status, out, err = call("run", tiny, "x", "--samples", "2", *COLD)
    assert (status, err) == (0, "")
    assert out == (f"--- 1 of 2 (seed 3, stop)\n{ANSWER}\n--- 2 of 2 (seed 4, stop)\n{ANSWER}\n")


def test_the_vote_is_the_answer_alone(call, seven):
    status, out, err = call("run", seven, "x", "--samples", "5", "--vote", *COLD)
    assert (status, out, err) == (0, "7\n", "votes of 5 answers: 7: 5\n")
    assert call("run", seven, "x", "--samples", "3", "--vote-by", r"^\d", *COLD)[1] == "3\n"
    assert call("run", seven, "x", "--samples", "3", "--vote-by", "text", *COLD)[1] == "3+4=7!\n"


def test_without_votes_all_are_written(call, tiny):
    _, out, _ = call("run", tiny, "x", "--samples", "2", "--vote-by", "number", *COLD)
    assert out.count(ANSWER) == 2


def test_json(call, seven):
    _, out, _ = call("run", seven, "x", "--samples", "2", "--vote", "--json", *COLD)
    found = json.loads(out)
    assert found.keys() == {
        "text", "answer", "votes", "chosen", "samples", "prompt_tokens", "completion_tokens",
        "prefill_s", "decoding_s", "cancelled", "context", "model", "backend",
    }  # fmt: skip
    assert (found["text"], found["answer"], found["votes"]) == ("3+4=7!", "7", {"7": 2})
    assert [sample["seed"] for sample in found["samples"]] == [3, 4]
    sample = found["samples"][found["chosen"]]
    assert sample["completion_tokens"] == 6
    assert sample["log_probability"] == pytest.approx(7 * sample["mean_log_probability"])
    assert (sample["answer"], sample["grade"], sample["finish_reason"]) == ("7", None, "stop")


@pytest.mark.parametrize("best", ["likelihood", "judge"])
def test_the_best(call, tiny, best):
    status, out, err = call("run", tiny, "x", "--samples", "2", "--best", best, *COLD)
    assert (status, out) == (0, ANSWER + "\n")
    assert err.startswith("answer 1 of 2 (seed 3): ") or err.startswith("answer 2 of 2 (seed 4): ")


def test_another_model_judges(call, tiny, seven):
    options = ["--samples", "2", "--best", "judge", "--judge", seven, "--json", *COLD]
    grades = [
        sample["grade"] for sample in json.loads(call("run", tiny, "x", *options)[1])["samples"]
    ]
    assert grades[0] == pytest.approx(grades[1])
    assert 0 < grades[0] < 1
    status, _, err = call("run", tiny, "x", *options[:5], "nowhere.gguf", *COLD)
    assert (status, "nowhere.gguf" in err) == (3, True)


def test_beams(call, tiny):
    assert call("run", tiny, "x", "--beams", "3")[:2] == (0, ANSWER + "\n")
    found = json.loads(call("run", tiny, "x", "--beams", "3", "--json")[1])
    assert found["text"] == found["beams"][0]["text"] == ANSWER
    assert found["beams"][0]["completion_tokens"] == len(ANSWER.encode()) + 1  # and its end
    scores = [beam["score"] for beam in found["beams"]]
    assert scores == sorted(scores, reverse=True)


def test_what_is_piped_in_stands_behind_the_prompt(call, tiny, monkeypatch):
    plain = json.loads(call("run", tiny, "x\n\nabc", "--samples", "1", "--json", *COLD)[1])
    piped = json.loads(call("run", tiny, "x", "--samples", "1", "--json", *COLD, stdin="abc")[1])
    assert piped["prompt_tokens"] == plain["prompt_tokens"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--vote"], "--samples N"),
        (["--vote-by", "number"], "--samples N"),
        (["--best", "judge"], "--samples N"),
        (["--samples", "2", "--vote", "--best", "judge"], "one of them"),
        (["--samples", "2", "--beams", "2"], "exclude each other"),
        (["--samples", "2", "--judge", "x"], "--best judge"),
        (["--samples", "2", "--on-overflow", "shift"], "a prompt that fits"),
        (["--samples", "2", "--temp", "0"], "temperature 0"),
        (["--samples", "2", "--vote-by", "("], "no regular expression"),
        (["--samples", "129"], "128"),
    ],
)
def test_what_cannot_be_is_refused(call, tiny, options, sentence):
    status, out, err = call("run", tiny, "x", *options)
    assert (status, out) == (2, "")
    assert sentence in err


def test_ctrl_c_ends_the_answers_where_they_are(call, tmp_path):
    path = write_tiny(tmp_path / "endless.gguf", answer=None, context=4096)
    timer = threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    options = ["--samples", "16", "-n", "4000", "--json", *COLD]
    status, out, _ = call("run", str(path), "x", *options)
    timer.join()
    found = json.loads(out)
    assert (status, found["cancelled"]) == (130, True)
    (length,) = {sample["completion_tokens"] for sample in found["samples"]}
    assert 0 < length < 4000
