"""The options that let an answer be guessed, and the guesses be checked together."""

from __future__ import annotations

import functools

import click

from edgellm.cli.options import option
from edgellm.device.memory import DRAFT_MAX

__all__ = ["OPTIONS"]

_speed = functools.partial(option, section="Speed")

OPTIONS = (
    _speed("--speculate", type=click.Choice(["auto", "ngram", "off"]), default="auto",
           show_default=True, help="Guess the next tokens by what followed the same words before, "
           "and evaluate them together. auto: where it pays, and --temp is not 0."),
    _speed("--draft", metavar="MODEL", help="A smaller model of the same vocabulary, which guesses "
           "where no words are repeated."),
    _speed("--draft-max", type=click.IntRange(1, DRAFT_MAX), default=DRAFT_MAX, show_default=True,
           metavar="N", help="Most tokens of a guess."),
)  # fmt: skip
