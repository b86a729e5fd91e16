"""Models that think before they answer: how each family marks its thoughts, and is asked for them.

A family is found by what the chat template writes, and else by the tags that the vocabulary has as
tokens of their own. The name of a model says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from edgellm.backends.base import Tokenizer
from edgellm.errors import UsageError

__all__ = [
    "FAMILIES",
    "Family",
    "Reasoning",
    "Think",
    "check_think",
    "find_family",
]

# auto: as the template does by itself. on: it is asked for a thought. off: for none.
Think = Literal["auto", "on", "off"]
MAX_THINKING = 10_000_000  # tokens; more than any context holds


@dataclass(frozen=True, slots=True)
class Family:
    """How thoughts are marked in what a model writes.

    Attributes:
        name: of the family.
        opens: what begins a thought, the usual one first.
        closes: what ends it, the usual one first.
        answer: what stands between the end of a thought and the answer.
        answers: what begins an answer and is not part of it.
        end: what ends an answer and is not part of it; "" for the end of the text alone.
        signs: the template holds all of these; empty for `opens[0]` or `closes[0]`.
    """

    name: str
    opens: tuple[str, ...]
    closes: tuple[str, ...]
    answer: str = "\n\n"
    answers: tuple[str, ...] = ()
    end: str = ""
    signs: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """All that it writes around thoughts and answers."""
        return (*self.opens, *self.closes, *self.answers)

    def is_in(self, template: str) -> bool:
        """Tell whether a chat template is one of this family."""
        if self.signs:
            return all(sign in template for sign in self.signs)
        return self.opens[0] in template or self.closes[0] in template


_FINAL = "<|channel|>final<|message|>"
_ANALYSIS = "<|channel|>analysis<|message|>"
_SPEAKER = "<|start|>assistant"

# The first row that a template matches counts: those with more signs stand before `think`.
FAMILIES: tuple[Family, ...] = (
    Family(  # gpt-oss
        "harmony",
        (_ANALYSIS, _SPEAKER + _ANALYSIS),
        ("<|end|>",),
        answer=_SPEAKER + _FINAL,
        answers=(_SPEAKER + _FINAL, _FINAL),
        signs=("<|channel|>", "analysis"),
    ),
    Family("gemma", ("<|channel>thought",), ("<channel|>",), answer=""),  # Gemma 4
    Family("magistral", ("[THINK]",), ("[/THINK]",), answer=""),  # Magistral, Ministral
    Family(  # Command A Reasoning, Command R7B
        "cohere",
        ("<|START_THINKING|>",),
        ("<|END_THINKING|>",),
        answer="<|START_RESPONSE|>",
        answers=("<|START_RESPONSE|>",),
        end="<|END_RESPONSE|>",
    ),
    Family("seed", ("<seed:think>",), ("</seed:think>",), answer=""),  # Seed-OSS
    Family("kimi", ("◁think▷",), ("◁/think▷",)),  # Kimi-VL
    Family("apertus", ("<|inner_prefix|>",), ("<|inner_suffix|>",), answer=""),
    Family("thought", ("<thought>",), ("</thought>",)),  # EXAONE Deep
    Family(  # Granite 3.2
        "granite",
        ("Here is my thought process:", "Here's my thought process:"),
        ("Here is my response:", "Here's my response:"),
    ),
    Family(  # Granite 3.3
        "granite-tags",
        ("<think>",),
        ("</think>",),
        answer="<response>",
        answers=("<response>",),
        end="</response>",
        signs=("<think>", "<response>"),
    ),
    Family(  # Hunyuan
        "hunyuan",
        ("<think>",),
        ("</think>",),
        answer="\n<answer>\n",
        answers=("<answer>",),
        end="</answer>",
        signs=("<think>", "<answer>"),
    ),
    # DeepSeek-R1, Qwen3, QwQ, SmolLM3, Phi-4-reasoning, GLM-4.5, Nemotron, LFM2 and others.
    Family("think", ("<think>",), ("</think>",)),
)

# What templates call the choice; one that reads none of them ignores them all.
_VARIABLES = ("enable_thinking", "thinking", "reasoning")
_SWITCHES = (*_VARIABLES, "/no_think")


def find_family(template: str | None, tokenizer: Tokenizer) -> Family | None:
    """Give the family of a model; None if it does not think, or has no chat template."""
    if template is None:
        return None
    for family in FAMILIES:
        if family.is_in(template):
            return family
    return next((f for f in FAMILIES if not f.signs and _has_tokens_of(f, tokenizer)), None)


def _has_tokens_of(family: Family, tokenizer: Tokenizer) -> bool:
    """Tell whether the vocabulary has tokens that are the tags of a thought."""
    for tag in (family.opens[0], family.closes[0]):
        tokens = tokenizer.tokenize(tag, special=True)
        if len(tokens) != 1 or tokenizer.token_bytes(tokens[0]).decode("utf-8", "replace") != tag:
            return False
    return True


def check_think(think: str, budget: int, least: int) -> None:
    """Refuse what no model could do.

    Args:
        think: one of `Think`.
        budget: the most tokens of thinking; negative for no limit.
        least: the fewest.

    Raises:
        UsageError: a value out of its range, or values that exclude each other.
    """
    if think not in get_args(Think):
        raise UsageError(
            f"thinking cannot be {think!r}", hint=f"one of: {', '.join(get_args(Think))}"
        )
    if not -1 <= budget <= MAX_THINKING:
        raise UsageError(f"a budget of {budget} tokens of thinking: it is -1 (none) or more")
    if not 0 <= least <= MAX_THINKING:
        raise UsageError(f"a minimum of {least} tokens of thinking: it is 0 or more")
    if 0 <= budget < least:
        raise UsageError(f"the minimum of thinking is {least} tokens, and the budget {budget}")
    if think == "off" and (budget > 0 or least > 0):
        raise UsageError("a budget or a minimum of thinking is given, and thinking is off")


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How one prompt asks a model of a family for its thoughts.

    Attributes:
        family: of the model.
        think: whether it is to think.
        least: the fewest tokens of a thought: above 0, the prompt begins one.
        constrained: whether the answer has a form, so that the model cannot begin a thought there.
    """

    family: Family
    think: Think = "auto"
    least: int = 0
    constrained: bool = False
    variables: Mapping[str, bool] = field(init=False)

    def __post_init__(self) -> None:
        wanted = self.think == "on" or self.least > 0
        asked = wanted or self.think == "off"
        values = dict.fromkeys(_VARIABLES, wanted) if asked else {}
        object.__setattr__(self, "variables", values)

    def finish(self, rendered: str, template: str) -> str:
        """Give a rendered prompt with what begins a thought, or says that there is none.

        Args:
            rendered: a prompt that ends where the assistant is to speak.
            template: the source of its chat template.
        """
        family = self.family
        opened = opened_in(rendered, family)
        if self.think == "off":
            ended = rendered.rstrip().endswith((*family.closes, *family.answers))
            if opened:
                return f"{rendered.rstrip()}\n\n{family.closes[0]}{family.answer}"
            if ended or any(switch in template for switch in _SWITCHES):
                return rendered
            return f"{rendered}{family.opens[0]}\n\n{family.closes[0]}{family.answer}"
        if not opened and (self.least > 0 or (self.constrained and self.think == "on")):
            return f"{rendered}{family.opens[0]}\n"
        if not opened and self.constrained and family.answers:
            return rendered + family.answers[-1]
        return rendered


def opened_in(text: str, family: Family) -> bool:
    """Tell whether a prompt ends with the beginning of a thought."""
    return text.rstrip().endswith(family.opens)
