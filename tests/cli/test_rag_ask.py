"""Answers from a library: `rag ask`, `rag eval`, `chat --rag`, and the same in Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgellm
import tiny
from edgellm.api.ask import Asked, LibraryTalk, ask, gate_of
from edgellm.api.chat import LoadedModel
from edgellm.api.rag import OpenLibrary
from edgellm.api.rag_eval import Question, evaluate_library, read_questions
from edgellm.backends.base import Sampling
from edgellm.errors import ContextOverflowError, NotFoundError, UsageError
from edgellm_converters.pipeline import convert

TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
TOWER = "The tower of Milad is 435 m high. It stands in Tehran."
FERRY = "The ferry to Norby leaves at nine. It carries forty cars."
PERSIAN = "برج میلاد در تهران است. بلندی آن ۴۳۵ متر است."


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights, and a library that is searched by words alone."""
    folder = tmp_path_factory.mktemp("ask")
    config = tiny.llama(folder / "hf") / "config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 4096})
    )
    convert(folder / "hf", folder / "tiny.gguf")
    (folder / "template.jinja").write_text(TEMPLATE)
    docs = folder / "docs"
    docs.mkdir()
    (docs / "tower.md").write_text(f"# Towers\n\n{TOWER}\n")
    (docs / "ferry.txt").write_text(FERRY)
    (docs / "fa.txt").write_text(PERSIAN, encoding="utf-8")
    with edgellm.open_library(folder / "lib.db", write=True, embedder="none") as library:
        assert library.index([docs]).added == 3
    return folder


@pytest.fixture(scope="module")
def library(place: Path) -> Iterator[OpenLibrary]:
    with edgellm.open_library(place / "lib.db") as opened:
        yield opened


@pytest.fixture(scope="module")
def model(place: Path) -> Iterator[LoadedModel]:
    with edgellm.load(place / "tiny.gguf", chat_template=TEMPLATE) as loaded:
        yield loaded


def test_an_answer_of_any_model_stands_on_sentences_that_are_there(
    library: OpenLibrary, model: LoadedModel
) -> None:
    reasons: set[str | None] = set()
    for seed in range(25):
        asking = ask(
            library,
            model,
            "How high is the tower of Milad?",
            sampling=Sampling(temperature=100, top_p=1, min_p=0, seed=seed),
            max_tokens=150,
        )
        shown = "".join(asking)
        asked = asking.result
        reasons.add(asked.reason)
        assert asked.refused == (asked.reason is not None) == (not asked.citations)
        if asked.refused:
            assert asked.answer == ""
            continue
        assert asked.answer == shown.strip()
        for citation in asked.citations:
            text = Path(citation.path).read_text(encoding="utf-8")
            assert text[citation.start : citation.end] == citation.quote
            assert citation.path == asked.hits[citation.number - 1].path
    assert None in reasons


def test_a_question_of_another_field_is_refused_without_the_model(
    library: OpenLibrary, model: LoadedModel
) -> None:
    for question in ("Which enzyme unwinds the DNA double helix?", "xyzzy"):
        asked = ask(library, model, question).read()
        assert (asked.refused, asked.reason, asked.result) == (True, "nothing", None)
    assert gate_of(library).opens(evidence_of(library, "بلندی برج ميلاد"))  # the Arabic keyboard


def evidence_of(library: OpenLibrary, question: str):
    from edgellm.rag.gate import evidence

    hits = library.search(question).hits
    return evidence(question, [(hit.text, hit.dense) for hit in hits], library.rarity)


def test_what_does_not_fit_the_context_is_told(library: OpenLibrary, place: Path) -> None:
    with edgellm.load(place / "tiny.gguf", chat_template=TEMPLATE) as model:
        whole = ask(library, model, "The tower, the ferry", gated=False, max_tokens=1).read()
        assert whole.left_out == 0
        assert whole.sources == 2
        assert whole.result is not None
        room = whole.result.prompt_tokens
    with edgellm.load(place / "tiny.gguf", chat_template=TEMPLATE, context=room) as model:
        less = ask(library, model, "The tower, the ferry", gated=False, max_tokens=1).read()
        assert (less.sources, less.left_out) == (1, 1)
        with pytest.raises(ContextOverflowError, match=r"no chunk of .* fits the context"):
            ask(library, model, "The tower, the ferry", gated=False, max_tokens=room - 10)


def test_a_follow_up_question_keeps_its_own_words(library: OpenLibrary, model: LoadedModel) -> None:
    talk = LibraryTalk(library, model)
    assert talk.condensed("Where is the tower?") == "Where is the tower?"
    talk.keep("Where is the tower?", Asked("", "In Tehran.", False, None, (), (), 0, 0, None))
    assert talk.condensed("And how high?").endswith("And how high?")
    assert len(talk.condensed("And how high?")) > len("And how high?")


def test_evaluation_counts_what_is_found(library: OpenLibrary) -> None:
    questions = [
        Question("How high is the tower of Milad?", ("docs/tower.md",)),
        Question("When does the ferry leave?", ("ferry.txt", "nowhere.txt")),
        Question("ferry Norby", ("tower.md",)),
        Question("بلندی برج میلاد؟", ("fa.txt",)),
        Question("anything at all"),
    ]
    report = evaluate_library(library, None, questions)
    # Ranks: 1, 1 (of two), none, 1; nDCG of the second: 1 / (1 + 1 / log2 3).
    assert report.recall == {1: 0.75, 5: 0.75, 10: 0.75}
    assert report.ndcg == pytest.approx((1 + 1 / (1 + 0.6309297535714575) + 0 + 1) / 4)
    assert report.answered is None
    assert report.search_p50_s <= report.search_p95_s


def test_evaluation_counts_answers_and_refusals(library: OpenLibrary, model: LoadedModel) -> None:
    questions = [
        Question("How high is the tower of Milad?", answer="435"),
        Question("Which enzyme unwinds the DNA double helix?", answerable=False),
        Question("How is puff pastry laminated?", answerable=True),
    ]
    report = evaluate_library(library, model, questions)
    assert report.recall is None
    assert report.refusal_recall == 1
    # The tower's answer may be refused by the model too; puff pastry is refused wrongly.
    refused = 3 - (report.answered or 0)
    assert report.refusal_precision == pytest.approx(1 / refused)
    assert report.citations_valid in (None, 1.0)


WRONG = {
    "{": "line 1: this is no JSON",
    "[]": "line 1: this is no object",
    '{"question": ""}': "`question` is a text that is not empty",
    '{"question": "a", "path": [1]}': "`path` is a path or a list of them",
    '{"question": "a", "answer": 1}': "`answer` is a text",
    '{"question": "a", "answerable": "no"}': "`answerable` is true or false",
    '{"question": "a", "paths": []}': "the key 'paths' is unknown",
    "\n": "holds no question",
    "[" * 100_000: "this is no JSON",
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_a_wrong_file_of_questions_is_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_questions(path)
    assert WRONG[text] in str(caught.value)
    assert str(path) in str(caught.value)
    with pytest.raises(NotFoundError, match="no such file"):
        read_questions(tmp_path / "none")


def test_the_commands(call, place: Path, tmp_path: Path) -> None:
    base = ["--db", str(place / "lib.db"), "--json"]
    status, out, _ = call("rag", "ask", "xyzzy", "-m", str(place / "tiny.gguf"), *base)
    found = json.loads(out)
    assert status == 7
    assert (found["refused"], found["reason"], found["answer"]) == (True, "nothing", "")
    assert found["model"] == str(place / "tiny.gguf")
    status, out, err = call("rag", "ask", "xyzzy", "-m", str(place / "tiny.gguf"), *base[:2])
    assert (status, out) == (7, "")
    assert "Nothing like an answer is in the library." in err

    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question": "the tower of Milad", "path": "tower.md"}\n')
    words = ["rag", "eval", "--questions", str(questions), "--no-answers"]
    status, out, _ = call(*words, *base)
    report = json.loads(out)
    assert (status, report["recall"]["1"], report["ndcg"]) == (0, 1.0, 1.0)
    status, out, _ = call(*words, *base[:2])
    assert "recall@1 1.000" in out


def test_chat_with_a_library(call, place: Path) -> None:
    words = ["chat", "--rag", str(place / "lib.db"), "-m", str(place / "tiny.gguf")]
    words += ["--chat-template", str(place / "template.jinja")]
    status, out, err = call(*words, stdin="xyzzy\n/clear\nplugh\n/bye\nnot asked\n")
    assert (status, out) == (0, "")
    assert err.count("Nothing like an answer is in the library.") == 2
    status, out, _ = call(*words, "--json", stdin="xyzzy\n")
    assert json.loads(out)["reason"] == "nothing"
    status, _, err = call(*words, "--system", "Be brief.", stdin="")
    assert (status, "--rag goes without --system" in err) == (2, True)
    status, _, err = call("chat", "--rag", str(place / "none.db"), stdin="")
    assert status == 3
