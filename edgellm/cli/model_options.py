"""The options of the commands that run a model: what is loaded, and how text is written."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from edgellm.cli import constraint_options, speculation_options, think_options
from edgellm.cli.bidi import bidi_option
from edgellm.cli.options import option
from edgellm.cli.sizes import size_or_none

if TYPE_CHECKING:
    from edgellm.generate.options import GenerateOptions

__all__ = [
    "SAMPLING_FIELDS",
    "drawn_seed",
    "generate_options",
    "generation_options",
    "given_model",
    "loading_options",
]

F = TypeVar("F", bound=Callable[..., Any])

# option, as `/set` takes it too -> field of Sampling
SAMPLING_FIELDS = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical": "typical_p",
    "top_nsigma": "top_n_sigma",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "repeat_penalty": "repeat_penalty",
    "repeat_last_n": "repeat_last_n",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "dry_multiplier": "dry_multiplier",
    "dry_base": "dry_base",
    "dry_allowed_length": "dry_allowed_length",
    "dry_penalty_last_n": "dry_last_n",
    "mirostat": "mirostat",
    "mirostat_ent": "mirostat_tau",
    "mirostat_lr": "mirostat_eta",
}

# The sections of the help text.
_choosing = functools.partial(option, section="Choosing tokens")
_loading = functools.partial(option, section="Loading")
_window = functools.partial(option, section="Context")

# Of every command that runs a model.
_LOADING = (
    _loading("-t", "--threads", type=int, metavar="N",
             help="Threads; MLX takes none  [default: physical cores]."),
    _loading("-ngl", "--gpu-layers", type=int, metavar="N",
             help="Layers on an accelerator; MLX takes none  [default: all that fit, where there "
             "is one]."),
    _loading("--cache-type", type=click.Choice(["f16", "q8_0", "q4_0"]), default="f16",
             show_default=True, help="How the context keeps keys and values."),
    _loading("--backend", type=click.Choice(["llama_cpp", "mlx"]),
             help="What runs the model  [default: what can run the file]."),
    _loading("--lora", multiple=True, metavar="FILE[:SCALE]",
             help="A LoRA adapter: a GGUF file, or a folder of PEFT or mlx-lm, that counts SCALE "
             "times  [default: once]; may be given more than once."),
    _loading("--no-fit", is_flag=True,
             help="Load a model or a context even if it seems not to fit in memory."),
)  # fmt: skip

_OPTIONS = (
    option("-m", "--model", help="Model: a path, or a name in the store."),
    option("-p", "--prompt", help="The prompt, where a positional one could be taken for a model."),
    option("--system", help="System prompt."),
    option("--chat-template", type=click.Path(dir_okay=False), metavar="FILE",
           help="A Jinja chat template in place of the model's own."),
    option("-n", "--predict", type=int, default=-1, metavar="N",
           help="Most tokens of an answer; -1 for no limit but the context."),
    _choosing("--temp", type=float, default=0.8, show_default=True,
              help="Temperature; 0 takes the likeliest token every time."),
    _choosing("--top-k", type=int, default=40, show_default=True,
              help="Choose among the K likeliest tokens; 0 for all."),
    _choosing("--top-p", type=float, default=0.95, show_default=True,
              help="Choose among the likeliest tokens that have this probability together."),
    _choosing("--min-p", type=float, default=0.05, show_default=True,
              help="Drop tokens below this share of the likeliest one's probability."),
    _choosing("--typical", type=float, default=1.0, show_default=True, metavar="P",
              help="Choose among the tokens of the most usual surprise that have this probability "
              "together; 1 for all."),
    _choosing("--top-nsigma", type=float, default=0.0, show_default=True, metavar="N",
              help="Drop tokens more than N standard deviations of all logits below the likeliest "
              "one; 0 for none."),
    _choosing("--xtc-probability", type=float, default=0.0, show_default=True, metavar="P",
              help="How often the likeliest tokens are left out but the last one that reaches "
              "--xtc-threshold; 0 for never."),
    _choosing("--xtc-threshold", type=float, default=0.1, show_default=True, metavar="P",
              help="The probability from which a token is one of those."),
    _choosing("--repeat-penalty", type=float, default=1.0, show_default=True,
              help="Make recent tokens less likely; 1 for no change."),
    _choosing("--repeat-last-n", type=int, default=64, show_default=True, metavar="N",
              help="How many tokens count as recent; 0 for none."),
    _choosing("--frequency-penalty", type=float, default=0.0, show_default=True,
              help="Taken from the logit of a recent token for each time it occurs."),
    _choosing("--presence-penalty", type=float, default=0.0, show_default=True,
              help="Taken once from the logit of a recent token."),
    _choosing("--dry-multiplier", type=float, default=0.0, show_default=True, metavar="X",
              help="Make tokens less likely that go on with a repetition (DRY); 0 for off."),
    _choosing("--dry-base", type=float, default=1.75, show_default=True, metavar="X",
              help="How that grows with each token that the repetition is longer."),
    _choosing("--dry-allowed-length", type=int, default=2, show_default=True, metavar="N",
              help="The longest repetition in tokens that costs nothing."),
    _choosing("--dry-penalty-last-n", type=int, default=64, show_default=True, metavar="N",
              help="How many tokens are searched for repetitions."),
    _choosing("--dry-sequence-breaker", multiple=True, metavar="TEXT",
              help="No repetition goes across this text; may be given more than once, and \"none\" "
              "stands for no such text  [default: newline, colon, quotation mark, asterisk]."),
    _choosing("--mirostat", type=click.IntRange(0, 2), default=0, show_default=True,
              help="1 or 2 keeps the text's surprise near --mirostat-ent, in place of all the cuts "
              "and penalties above; 0 for off."),
    _choosing("--mirostat-ent", type=float, default=5.0, show_default=True, metavar="BITS",
              help="That surprise for each token."),
    _choosing("--mirostat-lr", type=float, default=0.1, show_default=True, metavar="X",
              help="How fast Mirostat corrects."),
    _choosing("--seed", type=int, default=-1, metavar="N",
              help="The same seed gives the same text; -1 draws one."),
    option("--stop", multiple=True, metavar="TEXT",
           help="End the answer before this text; may be given more than once."),
    bidi_option(),
    *constraint_options.OPTIONS,
    *think_options.OPTIONS,
    *speculation_options.OPTIONS,
    _window("--ctx", type=int, metavar="N",
            help="Context in tokens  [default: 4096, or less if the model was trained on less or "
            "memory does not hold more]."),
    *_LOADING,
    _window("--on-overflow", type=click.Choice(["error", "shift", "summarize"]),
            help="Where the context is full: refuse, drop the oldest turns, or put a summary in "
            "their place; always reported  [default: summarize in a chat, else error]."),
    _window("--prompt-cache-size", callback=size_or_none, default="2GB", show_default=True,
            metavar="SIZE", help="Most bytes on disk for states of long prompts, which are not "
            "evaluated again then; 0 for none."),
)  # fmt: skip


def generation_options(function: F) -> F:
    """Add the options of sampling and loading to a command."""
    for add in reversed(_OPTIONS):
        function = add(function)
    return function


def loading_options(function: F) -> F:
    """Add the options of loading alone to a command."""
    for add in reversed(_LOADING):
        function = add(function)
    return function


def given_model() -> str | None:
    """Give the model that `--model` names on the command line.

    EDGELLM_MODEL is a default and gives way to a model among the words; the option does not.
    """
    context = click.get_current_context()
    if context.get_parameter_source("model") is not ParameterSource.COMMANDLINE:
        return None
    value: str | None = context.params["model"]
    return value


def generate_options(values: dict[str, Any]) -> GenerateOptions:
    """Make the options of generation from a command's values; draws the seed if none is given.

    Raises:
        UsageError: a value out of its range.
        EdgellmError: a constraint that cannot be read or used.
    """
    from edgellm.backends.base import Sampling
    from edgellm.generate.options import GenerateOptions

    seed = values["seed"]
    given = {field: values[name] for name, field in SAMPLING_FIELDS.items()}
    if breakers := values["dry_sequence_breaker"]:
        given["dry_breakers"] = () if breakers == ("none",) else breakers
    sampling = Sampling(**given, seed=drawn_seed() if seed == -1 else seed)
    constraint = constraint_options.given_constraint(values)
    return GenerateOptions(
        sampling,
        values["predict"],
        tuple(values["stop"]),
        constraint,
        speculate=values["speculate"],
        draft_max=values["draft_max"],
        think=think_options.think_of(values["think"]),
        think_budget=values["think_budget"],
        think_min=values["think_min"],
    )


def drawn_seed() -> int:
    """Give a seed by chance."""
    return int.from_bytes(os.urandom(4), "big") % (2**32 - 1)
