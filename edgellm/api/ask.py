"""Answers from a library: what is found is given to a model, whose quotes are checked.

with edgellm.open_library("notes.db") as library, edgellm.load() as model:
    asking = edgellm.ask(library, model, "who wrote this?")
    for text in asking:
        print(text, end="")
    for citation in asking.result.citations:
        print(citation.path, citation.page, citation.quote)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm.backends.base import Sampling
from edgellm.errors import ContextOverflowError, UsageError
from edgellm.generate.template import Message

if TYPE_CHECKING:
    from edgellm.api.chat import LoadedModel
    from edgellm.api.rag import OpenLibrary
    from edgellm.generate.engine import Generation
    from edgellm.generate.result import GenerationResult
    from edgellm.rag.gate import Evidence, Gate
    from edgellm.rag.grounding import Citation, Passage
    from edgellm.rag.retrieve import Filters, Hit

__all__ = ["Asked", "Asking", "LibraryTalk", "ask", "gate_of"]

SOURCES = 5
MOST_TOKENS = 400  # of an answer with its quotes
REMEMBERED = 3  # turns of which a follow-up question may take its meaning
GREEDY = Sampling(temperature=0)


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of a question.

    Attributes:
        question: as the library was asked it.
        answer: the answer; empty where it is refused.
        refused: whether there is none.
        reason: why: "nothing" (nothing that was found is like an answer, so that the model was not
            asked), "model" (the model says that the sources do not answer), "quotes" (none of its
            quotes is in its source), "cut" (it came to no end), or None.
        citations: the sentences that the answer stands on, each checked to be in its source.
        hits: what was found, the best first; the first `sources` of them were the model's.
        sources: how many the model was given.
        left_out: how many more were found and did not fit the model's context.
        result: the numbers of the generation; None where the model was not asked.
    """

    question: str
    answer: str
    refused: bool
    reason: str | None
    citations: tuple[Citation, ...]
    hits: tuple[Hit, ...]
    sources: int
    left_out: int
    result: GenerationResult | None


class Asking:
    """An answer under way: iterate over its text once, then `result` is there."""

    def __init__(
        self,
        question: str,
        hits: Sequence[Hit],
        used: int,
        generation: Generation | None,
    ) -> None:
        self._question = question
        self._hits = tuple(hits)
        self._used = used
        self._generation = generation
        self._result: Asked | None = None

    def __iter__(self) -> Iterator[str]:
        from edgellm.rag.grounding import shown_part

        if self._generation is not None:
            yield from shown_part(iter(self._generation))
        self._finish()

    @property
    def result(self) -> Asked:
        """What came of it; only after the text has ended.

        Raises:
            UsageError: it has not.
        """
        if self._result is None:
            raise UsageError("the answer has not ended yet, so it has no result")
        return self._result

    def read(self) -> Asked:
        """Run to the end and give the result."""
        for _ in self:
            pass
        return self.result

    def _finish(self) -> None:
        from edgellm.rag.grounding import REFUSAL, parse_answer

        if self._generation is None:
            self._result = self._asked("", True, "nothing", (), None)
            return
        made = self._generation.result
        answer = parse_answer(made.text, [_passage(hit) for hit in self._hits[: self._used]])
        reason = None
        if answer.refused:
            if REFUSAL in made.text:
                reason = "model"
            else:
                reason = "quotes" if made.finish_reason == "stop" else "cut"
        self._result = self._asked(answer.text, answer.refused, reason, answer.citations, made)

    def _asked(
        self,
        answer: str,
        refused: bool,
        reason: str | None,
        citations: tuple[Citation, ...],
        result: GenerationResult | None,
    ) -> Asked:
        return Asked(
            self._question,
            answer,
            refused,
            reason,
            citations,
            self._hits,
            self._used,
            len(self._hits) - self._used,
            result,
        )


def ask(
    library: OpenLibrary,
    model: LoadedModel,
    question: str,
    *,
    count: int = SOURCES,
    filters: Filters | None = None,
    gated: bool = True,
    marked: bool = True,
    sampling: Sampling | None = None,
    max_tokens: int = MOST_TOKENS,
    cancel: threading.Event | None = None,
) -> Asking:
    """Answer a question from a library, with quotes that are checked, or refuse.

    Args:
        library: an open one.
        model: that has a chat template.
        question: in any words.
        count: how many chunks the model is given, at most.
        filters: which files are searched.
        gated: refuse, without asking the model, where what was found is no better than what is
            found for questions that the library cannot answer.
        marked: put sources between marks that they cannot know; see `rag.grounding`.
        sampling: how tokens are chosen; None takes the likeliest.
        max_tokens: the most tokens of the answer with its quotes.
        cancel: set it from any thread to stop.

    Raises:
        UsageError: the question is empty, or a value out of its range.
        TemplateError: the model has no chat template.
        ContextOverflowError: not even one chunk fits the model's context.
        NotFoundError, FetchError: the library's embedder is not there.
    """
    from edgellm.rag.grounding import answer_grammar, answer_messages, sentences

    found = [
        hit
        for hit in library.search(question, count=count, filters=filters).hits
        if sentences(hit.text)
    ]
    if not found or (gated and not gate_of(library).opens(_evidence(library, question, found))):
        return Asking(question, found, 0, None)
    passages = [_passage(hit) for hit in found]
    room = model.context_limit - max_tokens
    used = len(passages)
    while used and model.count_tokens(answer_messages(question, passages[:used])) > room:
        used -= 1
    if not used:
        raise ContextOverflowError(
            f"no chunk of {library.path} fits the context of {model.context_limit} tokens beside "
            f"an answer of {max_tokens}",
            hint="a larger --ctx, or a smaller -n",
        )
    generation = model.stream(
        answer_messages(question, passages[:used], marked=marked),
        sampling=sampling or GREEDY,
        max_tokens=max_tokens,
        constraint=answer_grammar(passages[:used]),
        cancel=cancel,
    )
    return Asking(question, found, used, generation)


def gate_of(library: OpenLibrary) -> Gate:
    """Give what evidence a library asks for; it is set once for each state of it."""
    from edgellm.rag.gate import calibrate, read_gate, write_gate

    state = library.state
    gate = read_gate(library.path, state)
    if gate is None:

        def measure(question: str) -> Evidence:
            return _evidence(library, question, library.search(question, count=1).hits)

        gate = calibrate(measure)
        write_gate(library.path, state, gate)
    return gate


class LibraryTalk:
    """A conversation about a library: a follow-up question is made whole before it is asked.

    Attributes:
        turns: questions as they were asked, with their answers.
    """

    def __init__(self, library: OpenLibrary, model: LoadedModel) -> None:
        self._library = library
        self._model = model
        self.turns: list[tuple[str, str]] = []

    def ask(
        self,
        question: str,
        *,
        count: int = SOURCES,
        filters: Filters | None = None,
        cancel: threading.Event | None = None,
    ) -> Asking:
        """Answer a question as `ask` does; `keep` what came of it.

        Raises: what `ask` raises.
        """
        whole = self.condensed(question, cancel)
        return ask(self._library, self._model, whole, count=count, filters=filters, cancel=cancel)

    def keep(self, question: str, asked: Asked) -> None:
        """Remember a turn."""
        self.turns.append((question, asked.answer or "I do not know."))

    def condensed(self, question: str, cancel: threading.Event | None = None) -> str:
        """Give a question that can be understood alone: the model writes it from the last turns.

        What the person typed stays in it, so that a poor rewriting cannot lose its words.
        """
        if not self.turns:
            return question
        talk = "\n".join(
            f"Person: {asked}\nAssistant: {answer}" for asked, answer in self.turns[-REMEMBERED:]
        )
        prompt = (
            f"{talk}\nPerson: {question}\n\nWrite the person's last question so that it can be "
            "understood without the rest. Write the question alone, in its own language."
        )
        from edgellm.generate.constraint import Regex

        made = self._model.chat(
            [Message("user", prompt)],
            sampling=GREEDY,
            max_tokens=64,
            constraint=Regex(r"[^\s][^\n\r]{0,200}"),
            cancel=cancel,
        )
        text = made.text.strip().strip('"')
        return question if not text or text == question else f"{text} {question}"


def _passage(hit: Hit) -> Passage:
    from edgellm.rag.grounding import Passage

    return Passage(hit.text, hit.path, hit.page, hit.start, hit.heading)


def _evidence(library: OpenLibrary, question: str, hits: Sequence[Hit]) -> Evidence:
    from edgellm.rag.gate import evidence

    chunks = [(f"{hit.heading}\n{hit.text}", hit.dense) for hit in hits]
    return evidence(question, chunks, library.rarity)
