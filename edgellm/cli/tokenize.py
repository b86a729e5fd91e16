"""`edgellm tokenize`: the tokens of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgellm.cli.generation import read_stdin
from edgellm.cli.model_options import given_model
from edgellm.cli.options import echo_json, json_option, option
from edgellm.cli.run import choose_model_and_prompt

if TYPE_CHECKING:
    from edgellm.api.tokenize import LoadedTokenizer

__all__ = ["command"]

SPACE = "\u2423"  # an open box: a space that can be seen


@click.command("tokenize")
@click.argument("words", nargs=-1, metavar="[MODEL] [TEXT]")
@option("-m", "--model", help="Model: a path, or a name in the store.")
@option("-p", "--prompt", help="The text, where a positional one could be taken for a model.")
@option(
    "--special",
    is_flag=True,
    help="The texts of control tokens in the text become these tokens.",
)
@option("--no-bos", is_flag=True, help="Leave out what the model has before and behind a text.")
@option("--chat", is_flag=True, help="The text is a person's, in the model's chat template.")
@option("--ids", is_flag=True, help="Write the numbers alone, on one line.")
@json_option
def command(
    words: tuple[str, ...],
    model: str | None,
    prompt: str | None,
    special: bool,
    no_bos: bool,
    chat: bool,
    ids: bool,
    as_json: bool,
) -> None:
    """Show the tokens of a text: a number and a piece a line, then how many there are.

    Only the vocabulary is read. Of a piece, spaces are shown as open boxes, what cannot be seen as
    an escape, and a byte that is a part of a character as <0xD9>. What is piped in is the text if
    none is given; MODEL is told from TEXT as `edgellm run` does it.

    \b
    edgellm tokenize "Why is the sky blue?"
    edgellm tokenize ./mine.gguf "چرا آسمان آبی است؟"
    edgellm tokenize mine.gguf --chat --ids < question.txt
    """
    from edgellm.api.tokenize import load_tokenizer

    if chat and (special or no_bos):
        other = "--special" if special else "--no-bos"
        raise click.UsageError(f"--chat makes the tokens of a whole prompt: {other} has no place")
    named, text = choose_model_and_prompt(words, given_model(), prompt)
    if text is None or text == "-":
        text = read_stdin()
    if text is None:
        raise click.UsageError("there is no text: give one, or pipe one in")
    with load_tokenizer(model if named is None else named) as tokenizer:
        tokens = _tokens(tokenizer, text, special=special, ends=not no_bos, chat=chat)
        pieces = tokenizer.pieces(tokens)
    if as_json:
        echo_json({"ids": tokens, "pieces": pieces, "count": len(tokens), "model": tokenizer.name})
    elif ids:
        click.echo(" ".join(map(str, tokens)))
    else:
        width = len(str(max(tokens, default=0)))
        for token, piece in zip(tokens, pieces, strict=True):
            click.echo(f"{token:>{width}}  {_visible(piece)}")
        click.echo(f"{len(tokens)} token{'' if len(tokens) == 1 else 's'}")


def _tokens(
    tokenizer: LoadedTokenizer, text: str, *, special: bool, ends: bool, chat: bool
) -> list[int]:
    if not chat:
        return tokenizer.tokenize(text, special=special, ends=ends)
    from edgellm.generate.template import Message

    return tokenizer.chat_tokens([Message("user", text)])


def _visible(piece: str) -> str:
    """Show spaces, and escape what a terminal would obey or not show."""
    return "".join(
        SPACE if c == " " else c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in piece
    )
