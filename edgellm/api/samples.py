"""Several answers to one prompt: all, the one that most agree on, the best one, or by beam search.

with edgellm.load() as model:
    found = model.samples("Tom has 3 apples and buys 4. How many has he?", n=15, vote="number")
    print(found.answer, found.votes)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Unpack

from edgellm.backends.base import Branches, CancelledError
from edgellm.errors import ContextOverflowError, UsageError
from edgellm.generate.beam import Beam, beam_search
from edgellm.generate.constraint import compile_constraint
from edgellm.generate.judge import grades
from edgellm.generate.options import GenerateFields, GenerateOptions
from edgellm.generate.prompt import chat_tokens, text_tokens
from edgellm.generate.result import FinishReason
from edgellm.generate.samples import MAX_SAMPLES, Sample, sample_answers
from edgellm.generate.template import Message
from edgellm.generate.vote import extractor, majority

if TYPE_CHECKING:
    from edgellm.api.chat import LoadedModel

__all__ = ["DEFAULT_TOKENS", "AskFields", "Beams", "Best", "Candidate", "Samples"]

# Of an answer where nobody sets a limit: each has room of its own from the start.
DEFAULT_TOKENS = 512

Best = Literal["likelihood", "judge"]
Progress = Callable[[str, int, int], None]


class AskFields(GenerateFields, total=False):
    """What `samples` and `beams` of a model take by name.

    Attributes:
        system: the system prompt; None for the template's own.
        raw: continue the prompt as it stands, without the chat template; the texts of control
            tokens in it count as these. A model without a template continues it too.
        options: how answers are written.
        cancel: set it from any thread to stop; what is written until then is the result.
        on_progress: called with what is done, how much of it, and of how much.
    """

    system: str | None
    raw: bool
    options: GenerateOptions
    cancel: threading.Event
    on_progress: Progress


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of several answers, and what it counts for.

    Attributes:
        sample: the answer as it was written.
        answer: what was taken out of it for the vote; None where there is nothing.
        grade: the judge's probability that it is right; None without a judge.
    """

    sample: Sample
    answer: str | None = None
    grade: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give all of it, flat."""
        return {**asdict(self.sample), "answer": self.answer, "grade": self.grade}


@dataclass(frozen=True, slots=True)
class Samples:
    """Several answers to one prompt.

    Attributes:
        candidates: in the order of their seeds.
        chosen: the place of the answer that was voted for, or is best; None where nothing chooses
            or nobody has a vote.
        answer: what most voted for.
        votes: the answers and how many voted for each, the most frequent first.
        prompt_tokens: tokens of the prompt, which is evaluated once.
        prefill_s: seconds until the first tokens were drawn.
        decoding_s: seconds after that, without the judge's.
        cancelled: it was stopped, and the answers end where they were.
    """

    candidates: tuple[Candidate, ...]
    chosen: int | None
    answer: str | None
    votes: dict[str, int]
    prompt_tokens: int
    prefill_s: float
    decoding_s: float
    cancelled: bool

    @property
    def text(self) -> str | None:
        """The text that was chosen."""
        return None if self.chosen is None else self.candidates[self.chosen].sample.text

    @property
    def completion_tokens(self) -> int:
        """Tokens of all answers together."""
        return sum(candidate.sample.completion_tokens for candidate in self.candidates)


@dataclass(frozen=True, slots=True)
class Beams:
    """What a beam search found, the best text first.

    Attributes:
        beams: the texts; none where it was stopped while the prompt was read.
        prompt_tokens: tokens of the prompt.
        seconds: the time of all.
        cancelled: it was stopped.
    """

    beams: tuple[Beam, ...]
    prompt_tokens: int
    seconds: float
    cancelled: bool


@dataclass(frozen=True)
class _Asked:
    """A prompt with all that is needed to answer it several times."""

    tokens: Sequence[int]
    options: GenerateOptions
    most: int
    full: FinishReason
    branches: Branches
    cancel: threading.Event
    progress: Progress = field(repr=False)


def samples(
    loaded: LoadedModel,
    prompt: str | Sequence[Message],
    n: int,
    *,
    vote: str | None,
    best: Best | None,
    judge: LoadedModel | None,
    **fields: Unpack[AskFields],
) -> Samples:
    """Answer a prompt several times; see `edgellm.api.chat.LoadedModel.samples`."""
    if not 1 <= n <= MAX_SAMPLES:
        raise UsageError(f"{n} samples are asked for, and 1 to {MAX_SAMPLES} can be")
    if vote is not None and best is not None:
        raise UsageError("vote and best both choose an answer: take one of them")
    if best not in (None, "likelihood", "judge"):
        raise UsageError(f"nothing chooses by {best!r}", hint="known: likelihood, judge")
    if judge is not None and best != "judge":
        raise UsageError("a judge is given, and best is not 'judge'")
    extract = None if vote is None else extractor(vote)
    asked = _ask(loaded, prompt, n, fields)
    try:
        if n > 1 and asked.options.sampling.temperature <= 0:
            raise UsageError(
                f"at temperature 0 all {n} samples are the same", hint="a temperature of 0.7 varies"
            )
        constraint = compile_constraint(loaded.model, asked.options.constraint)
        start, first = time.perf_counter(), 0.0

        def progress(done: int, tokens: int) -> None:
            nonlocal first
            first = first or time.perf_counter()
            asked.progress(f"{done} of {n} answers", tokens, n * asked.most)

        found = sample_answers(
            loaded.model,
            asked.branches,
            asked.tokens,
            asked.options,
            count=n,
            most=asked.most,
            full=asked.full,
            constraint=constraint,
            cancelled=asked.cancel.is_set,
            progress=progress,
        )
        end = time.perf_counter()
    finally:
        asked.branches.close()
    graded: list[float | None] = [None] * n
    if best == "judge":
        graded = _graded(judge or loaded, _question(prompt), found, asked)
    answers = [None if extract is None else extract(sample.text) for sample in found]
    candidates = tuple(map(Candidate, found, answers, graded))
    answer, votes = majority(answers)
    return Samples(
        candidates,
        _choose(candidates, answer, best),
        answer,
        votes,
        len(asked.tokens),
        (first or end) - start,
        end - (first or end),
        asked.cancel.is_set(),
    )


def beams(
    loaded: LoadedModel,
    prompt: str | Sequence[Message],
    n: int,
    *,
    length_penalty: float,
    **fields: Unpack[AskFields],
) -> Beams:
    """Search the likeliest answers; see `edgellm.api.chat.LoadedModel.beams`."""
    if not 1 <= n <= MAX_SAMPLES:
        raise UsageError(f"{n} beams are asked for, and 1 to {MAX_SAMPLES} can be")
    if not -10 <= length_penalty <= 10:
        raise UsageError(f"length_penalty is {length_penalty}, and must lie between -10 and 10")
    asked = _ask(loaded, prompt, n, fields)
    try:
        if asked.options.constraint is not None:
            raise UsageError("a beam search takes no constraint", hint="samples do")
        start = time.perf_counter()
        found = beam_search(
            loaded.model,
            asked.branches,
            asked.tokens,
            beams=n,
            most=asked.most,
            full=asked.full,
            length_penalty=length_penalty,
            stop=asked.options.stop,
            cancelled=asked.cancel.is_set,
            progress=lambda _done, tokens: asked.progress("searching", tokens, asked.most),
        )
    finally:
        asked.branches.close()
    seconds = time.perf_counter() - start
    return Beams(tuple(found), len(asked.tokens), seconds, asked.cancel.is_set())


def _ask(
    loaded: LoadedModel, prompt: str | Sequence[Message], count: int, fields: AskFields
) -> _Asked:
    """Tokenize the prompt, and make room for it and so many answers."""
    system, raw = fields.pop("system", None), fields.pop("raw", False)
    cancel = fields.pop("cancel", None) or threading.Event()
    progress = fields.pop("on_progress", None) or (lambda _what, _done, _total: None)
    given = fields.pop("options", None)
    rest: Any = fields  # what is left of them are fields of GenerateOptions
    options = GenerateOptions.of(given, **rest)
    if raw or not loaded.has_template:
        if not isinstance(prompt, str) or system is not None:
            raise UsageError("without a chat template there are no messages and no system prompt")
        tokens = text_tokens(loaded.model, prompt, special=raw)
    else:
        messages = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
        if system is not None:
            messages.insert(0, Message("system", system))
        tokens = chat_tokens(loaded.model, loaded.template, messages)
    if not tokens:
        raise UsageError("the prompt is empty")
    room = loaded.context_limit - len(tokens)
    if room < 1:
        raise ContextOverflowError(
            f"the prompt has {len(tokens)} tokens and the context holds {loaded.context_limit}, "
            "so that no answer fits",
            hint="shorten the prompt, or give a larger context with --ctx",
        )
    wanted = DEFAULT_TOKENS if options.max_tokens < 0 else options.max_tokens
    most = min(wanted, room)
    full: FinishReason = "length" if wanted <= room else "context"
    branches = loaded.open_branches(len(tokens), most, count)
    return _Asked(tokens, options, most, full, branches, cancel, progress)


def _graded(
    judge: LoadedModel, question: str, found: Sequence[Sample], asked: _Asked
) -> list[float | None]:
    def progress(done: int, total: int) -> None:
        asked.progress("judging", done, total)

    try:
        return [
            *grades(
                judge.model,
                judge.template if judge.has_template else None,
                question,
                [sample.text for sample in found],
                open_branches=judge.open_branches,
                limit=judge.context_limit,
                cancelled=asked.cancel.is_set,
                progress=progress,
            )
        ]
    except CancelledError:
        return [None] * len(found)


def _question(prompt: str | Sequence[Message]) -> str:
    if isinstance(prompt, str):
        return prompt
    return next((m.content for m in reversed(prompt) if m.role == "user"), "")


def _choose(candidates: Sequence[Candidate], answer: str | None, best: Best | None) -> int | None:
    """Give the place of the answer to show: of those that were voted for, the likeliest."""
    places = [at for at, candidate in enumerate(candidates) if candidate.answer == answer]
    if best == "judge":
        places = [at for at, candidate in enumerate(candidates) if candidate.grade is not None]
        return max(places, key=lambda at: candidates[at].grade or 0.0, default=None)
    if best is None and answer is None:
        return None
    return max(places, key=lambda at: candidates[at].sample.mean_log_probability, default=None)
