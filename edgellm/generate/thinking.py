"""What options mean for a model that thinks: its prompt, and the watch over its text."""

from __future__ import annotations

from dataclasses import dataclass

from edgellm.backends.base import Model
from edgellm.errors import UsageError
from edgellm.generate.options import GenerateOptions
from edgellm.generate.reasoning import Reasoning, find_family
from edgellm.generate.template import ChatTemplate
from edgellm.generate.thoughts import ThoughtWatch

__all__ = ["Thinking", "check_thinks", "thinking_of"]


@dataclass(frozen=True, slots=True)
class Thinking:
    """How one answer of a model thinks; all is None for one that does not.

    Attributes:
        asked: how the prompt asks for it.
        silent: how a prompt asks for no thinking, as that of a summary.
        watch: over the text.
    """

    asked: Reasoning | None = None
    silent: Reasoning | None = None
    watch: ThoughtWatch | None = None


def thinking_of(model: Model, template: ChatTemplate, options: GenerateOptions) -> Thinking:
    """Make what one answer needs.

    Raises:
        UsageError: thinking is asked for, and the model has none.
    """
    family = find_family(template.source, model)
    if family is None:
        check_thinks(options, "its chat template writes no tag of thoughts")
        return Thinking()
    constrained = options.constraint is not None
    think = "on" if options.think == "auto" and options.think_budget > 0 else options.think
    return Thinking(
        Reasoning(family, think, options.think_min, constrained),
        Reasoning(family, "off"),
        ThoughtWatch(
            family,
            model,
            budget=options.think_budget,
            least=options.think_min,
            constrained=constrained,
        ),
    )


def check_thinks(options: GenerateOptions, reason: str) -> None:
    """Refuse options that ask for thinking where there is none.

    Raises:
        UsageError: they do; `reason` is part of the sentence.
    """
    if options.think == "on" or options.think_budget >= 0 or options.think_min > 0:
        raise UsageError(
            f"this model has no thinking to ask for or to bound: {reason}",
            hint="without --think show, --think-budget and --think-min it answers at once",
        )
