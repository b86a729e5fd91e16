"""How a text is written: what callers choose, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict, Unpack

from edgellm.backends.base import Sampling
from edgellm.device.memory import DRAFT_MAX
from edgellm.errors import UsageError
from edgellm.generate.constraint import ConstraintSpec, check_constraint
from edgellm.generate.drafts import Speculate, check_speculate
from edgellm.generate.reasoning import Think, check_think

__all__ = ["GenerateFields", "GenerateOptions"]

MAX_STOPS = 64
MAX_STOP_LENGTH = 1000


class GenerateFields(TypedDict, total=False):
    """The fields of `GenerateOptions`, as methods take them by name."""

    sampling: Sampling
    max_tokens: int
    stop: Sequence[str]
    constraint: ConstraintSpec | None
    speculate: Speculate
    draft_max: int
    think: Think
    think_budget: int
    think_min: int


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """How a text is written.

    Attributes:
        max_tokens: the most tokens of the answer, its thinking included; a negative number sets no
            limit but the context.
        stop: strings that end the answer; they are not part of it. In a thought they mean nothing.
        constraint: the form of the answer: a JSON schema, a grammar or a regular expression.
        speculate: whether tokens are guessed and then evaluated together: "ngram" guesses by what
            followed the same words before; "auto" does so where it pays and the temperature is not
            0, and by a draft model if one is loaded; "off" never does.
        draft_max: the most tokens of a guess.
        think: whether a model that can think before it answers is to: "auto" as its template does
            by itself, "on", or "off".
        think_budget: the most tokens of thinking, with those that end it; negative for no limit.
        think_min: the fewest tokens of thinking.

    Raises:
        UsageError: too many stop strings, or one that is empty or too long, or a constraint that
            no model could obey, or a number that is out of its range.
    """

    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = -1
    stop: Sequence[str] = ()
    constraint: ConstraintSpec | None = None
    speculate: Speculate = "auto"
    draft_max: int = DRAFT_MAX
    think: Think = "auto"
    think_budget: int = -1
    think_min: int = 0

    @classmethod
    def of(
        cls, options: GenerateOptions | None = None, **fields: Unpack[GenerateFields]
    ) -> GenerateOptions:
        """Give options of which some fields are other ones.

        Raises:
            UsageError: see the class.
        """
        return replace(options or cls(), **fields)

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            raise UsageError(f"stop strings are a list, and not the string {self.stop!r}")
        object.__setattr__(self, "stop", tuple(self.stop))
        if len(self.stop) > MAX_STOPS:
            raise UsageError(f"{len(self.stop)} stop strings are given, at most {MAX_STOPS} can be")
        for stop in self.stop:
            if not 0 < len(stop) <= MAX_STOP_LENGTH:
                raise UsageError(f"a stop string has 1 to {MAX_STOP_LENGTH} characters: {stop!r}")
        if self.constraint is not None:
            check_constraint(self.constraint)
        check_speculate(self.speculate)
        if not 1 <= self.draft_max <= DRAFT_MAX:
            raise UsageError(
                f"draft_max is {self.draft_max}, and must lie between 1 and {DRAFT_MAX}"
            )
        check_think(self.think, self.think_budget, self.think_min)
