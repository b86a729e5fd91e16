"""How good a library and a model are on a person's own questions."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm.api.ask import Asked, ask, gate_of
from edgellm.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from edgellm.api.chat import LoadedModel
    from edgellm.api.rag import OpenLibrary
    from edgellm.rag.retrieve import Hit

__all__ = ["Question", "RagReport", "evaluate_library", "read_questions"]

DEPTH = 10  # of nDCG
MOST_BYTES = 64 << 20
MOST_QUESTIONS = 100_000


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and what is known of its answer.

    Attributes:
        text: the question.
        paths: the ends of the paths of files that hold the answer; empty where nobody says.
        answer: a text that a right answer or its quotes hold; None where nobody says.
        answerable: whether the library knows.
    """

    text: str
    paths: tuple[str, ...] = ()
    answer: str | None = None
    answerable: bool = True


@dataclass(frozen=True, slots=True)
class RagReport:
    """What was measured; a number is None where no question tells.

    Attributes:
        questions: how many were asked.
        recall: share of the questions with a path of which one is among the first k files, by k.
        ndcg: nDCG of the first ten files (Järvelin and Kekäläinen 2002), each path being relevant.
        search_p50_s, search_p95_s: seconds of a search.
        answered: how many were answered.
        correct: share of the answerable ones with an `answer` whose answer or quotes hold it.
        citations: quotes that were shown.
        citations_valid: share of them that are in their source, looked for again.
        dropped: answers that were not shown because no quote was in its source.
        refusal_precision: share of the refused questions that are not answerable.
        refusal_recall: share of those not answerable that are refused.
        answer_p50_s: seconds of an answer that the model gave.
    """

    questions: int
    recall: dict[int, float] | None
    ndcg: float | None
    search_p50_s: float
    search_p95_s: float
    answered: int | None = None
    correct: float | None = None
    citations: int | None = None
    citations_valid: float | None = None
    dropped: int | None = None
    refusal_precision: float | None = None
    refusal_recall: float | None = None
    answer_p50_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        found: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if isinstance(value, dict):
                found[name] = {str(k): round(share, 4) for k, share in value.items()}
            else:
                found[name] = round(value, 4) if isinstance(value, float) else value
        return found

    def lines(self) -> list[str]:
        """Give it for people."""
        found = [f"{self.questions} questions"]
        if self.recall is not None and self.ndcg is not None:
            shares = ", ".join(f"recall@{k} {value:.3f}" for k, value in self.recall.items())
            found.append(f"  found     {shares}, nDCG@{DEPTH} {self.ndcg:.3f}")
        found.append(
            f"  searching {1e3 * self.search_p50_s:.0f} ms (95 %: {1e3 * self.search_p95_s:.0f} ms)"
        )
        if self.answered is None:
            return found
        found.append(f"  answered  {self.answered}, refused {self.questions - self.answered}")
        for name, value in (
            ("right answers", self.correct),
            ("quotes in their source", self.citations_valid),
            ("refused rightly, of the refused", self.refusal_precision),
            ("refused, of those without an answer", self.refusal_recall),
        ):
            if value is not None:
                found.append(f"  {100 * value:5.1f} %  {name}")
        if self.answer_p50_s is not None:
            found.append(f"  an answer takes {self.answer_p50_s:.1f} s")
        return found


def read_questions(path: Path) -> list[Question]:
    """Read questions from a file of JSON lines.

    Raises:
        NotFoundError: there is no such file.
        UsageError: it is too large, or a line is no question; the sentence names it.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: there is no such file")
    if path.stat().st_size > MOST_BYTES:
        raise UsageError(f"{path} has more than {MOST_BYTES} bytes")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (at byte {error.start})") from error
    found = [_question(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UsageError(f"{path} holds no question")
    if len(found) > MOST_QUESTIONS:
        raise UsageError(f"{path} holds {len(found)} questions, at most {MOST_QUESTIONS} can be")
    return found


def evaluate_library(
    library: OpenLibrary,
    model: LoadedModel | None,
    questions: Sequence[Question],
    *,
    count: int = 5,
    gated: bool = True,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> RagReport:
    """Ask all questions, and compare what comes with what is known.

    Args:
        library: an open one.
        model: None measures what is found alone.
        questions: of `read_questions`, or made by hand.
        count: chunks that the model is given.
        gated: see `edgellm.api.ask.ask`.
        progress: called for each question: what is going on, how many are done, of how many.

    Raises: what `edgellm.api.ask.ask` raises.
    """
    if model is not None and gated:
        gate_of(library)  # not in the time of the first
    ranks: list[list[int]] = []
    seconds, asked = [], []
    answer_seconds = []
    for number, question in enumerate(questions):
        progress(f"question {number + 1} of {len(questions)}", 0, 0)
        begin = time.perf_counter()
        hits = library.search(question.text, count=DEPTH, per_source=1).hits
        seconds.append(time.perf_counter() - begin)
        if question.paths:
            ranks.append(_ranks(hits, question.paths))
        if model is not None:
            begin = time.perf_counter()
            one = ask(library, model, question.text, count=count, gated=gated).read()
            if one.result is not None:
                answer_seconds.append(time.perf_counter() - begin)
            asked.append(one)
    known = [question for question in questions if question.paths]
    report = RagReport(
        len(questions),
        {k: _share(min(r, default=DEPTH + 1) <= k for r in ranks) for k in (1, 5, DEPTH)}
        if ranks
        else None,
        statistics.fmean(map(_ndcg, ranks, (len(q.paths) for q in known))) if ranks else None,
        _quantile(seconds, 0.5),
        _quantile(seconds, 0.95),
    )
    return _with_answers(report, questions, asked, answer_seconds) if asked else report


def _with_answers(
    report: RagReport,
    questions: Sequence[Question],
    asked: Sequence[Asked],
    seconds: Sequence[float],
) -> RagReport:
    pairs = list(zip(questions, asked, strict=True))
    refused = [question for question, one in pairs if one.refused]
    hopeless = [one for question, one in pairs if not question.answerable]
    told = [(q.answer, one) for q, one in pairs if q.answerable and q.answer is not None]
    valid = [_in_source(one, index) for one in asked for index in range(len(one.citations))]
    return replace(
        report,
        answered=len(asked) - len(refused),
        correct=_share(_holds(one, answer) for answer, one in told) if told else None,
        citations=len(valid),
        citations_valid=_share(valid) if valid else None,
        dropped=sum(one.reason == "quotes" for one in asked),
        refusal_precision=_share(not q.answerable for q in refused) if refused else None,
        refusal_recall=_share(one.refused for one in hopeless) if hopeless else None,
        answer_p50_s=_quantile(seconds, 0.5) if seconds else None,
    )


def _question(path: Path, number: int, line: str) -> Question:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}, line {number}: this is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path}, line {number}: this is no object")
    unknown = found.keys() - {"question", "path", "answer", "answerable"}
    text, paths = found.get("question"), found.get("path", [])
    answer, answerable = found.get("answer"), found.get("answerable", True)
    paths = [paths] if isinstance(paths, str) else paths
    why = None
    if unknown:
        why = f"the key {min(unknown)!r} is unknown"
    elif not isinstance(text, str) or not text.strip():
        why = "`question` is a text that is not empty"
    elif not isinstance(paths, list) or not all(isinstance(p, str) and p for p in paths):
        why = "`path` is a path or a list of them"
    elif answer is not None and not isinstance(answer, str):
        why = "`answer` is a text"
    elif not isinstance(answerable, bool):
        why = "`answerable` is true or false"
    if why is not None:
        raise UsageError(f"{path}, line {number}: {why}")
    return Question(str(text), tuple(paths), answer, answerable)


def _ranks(hits: Sequence[Hit], paths: Sequence[str]) -> list[int]:
    """Give the ranks, from 1, of the hits that are in one of the files."""
    ends = tuple("/" + path.lstrip("/") for path in paths)
    return [rank for rank, hit in enumerate(hits, 1) if ("/" + hit.path).endswith(ends)]


def _ndcg(ranks: Sequence[int], relevant: int) -> float:
    gain = sum(1 / math.log2(rank + 1) for rank in ranks if rank <= DEPTH)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(relevant, DEPTH) + 1))
    return gain / ideal


def _holds(asked: Asked, answer: str) -> bool:
    from edgellm.rag.normalise import normalise

    said = " ".join([asked.answer, *(citation.quote for citation in asked.citations)])
    return " ".join(normalise(answer).split()) in " ".join(normalise(said).split())


def _in_source(asked: Asked, index: int) -> bool:
    citation = asked.citations[index]
    hit = asked.hits[citation.number - 1]
    text = hit.text[citation.start - hit.start : citation.end - hit.start]
    return " ".join(text.split()) == citation.quote and hit.path == citation.path


def _share(values: Any) -> float:
    each = [bool(value) for value in values]
    return sum(each) / len(each)


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
