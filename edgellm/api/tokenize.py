"""Tokens of texts, from a model's vocabulary alone: no weights are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from edgellm.backends.base import LoadOptions, Tokenizer
from edgellm.errors import BackendError, TemplateError, UsageError

if TYPE_CHECKING:
    from edgellm.generate.template import Message

__all__ = ["LoadedTokenizer", "load_tokenizer", "piece_texts"]


def _nothing() -> None:
    pass


def load_tokenizer(model: str | os.PathLike[str] | None = None) -> LoadedTokenizer:
    """Find a model, check it and read its vocabulary.

    Args:
        model: a path, a name in the store or a built-in name; None takes the default model. A
            folder needs the extra `edgellm[mlx]`, whose transformers reads it.

    Raises:
        NotFoundError: there is no such model.
        ConvertersError: the file is damaged or would harm native code.
        BackendError: the tokenizer cannot be read, or what reads it is not installed.
    """
    from edgellm.models.resolve import resolve

    reference = None if model is None else os.fspath(model)
    path = resolve(reference)
    if path.is_dir():
        return LoadedTokenizer(_of_folder(path), path, name=reference)
    from edgellm.backends.llama_cpp.library import missing
    from edgellm.backends.llama_cpp.model import LlamaCppModel
    from edgellm.models.check import check_model_file

    check_model_file(path)
    reason = missing()
    if reason is not None:
        raise BackendError(f"{path}: its tokens cannot be read: {reason}")
    loaded = LlamaCppModel(path, LoadOptions(), lambda: False, "tokens")
    return LoadedTokenizer(loaded, path, name=reference, close=loaded.close)


def _of_folder(path: Path) -> Tokenizer:
    from edgellm.backends.mlx.library import missing
    from edgellm.backends.mlx.tokenizer import FolderTokenizer
    from edgellm.models.check_folder import check_model_folder

    check_model_folder(path)
    reason = missing()
    if reason is not None:
        raise BackendError(
            f"{path}: the tokenizer of a folder is read by transformers, and {reason}",
            hint="pip install 'edgellm[mlx]', or: edgellm convert FOLDER -o NAME.gguf",
        )
    return FolderTokenizer(path)


def piece_texts(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    """Give what tokens stand for as texts; a byte that is no UTF-8 there as <0xD9>.

    A token may hold a part of a character; the bytes of several are not put together.
    """
    return [_readable(tokenizer.token_bytes(token)) for token in tokens]


def _readable(raw: bytes) -> str:
    found = []
    while raw:
        try:
            found.append(raw.decode("utf-8"))
            break
        except UnicodeDecodeError as error:
            found.append(raw[: error.start].decode("utf-8"))
            found += [f"<0x{byte:02X}>" for byte in raw[error.start : error.end]]
            raw = raw[error.end :]
    return "".join(found)


class LoadedTokenizer:
    """A vocabulary in memory; close it, or use it in a `with` statement.

    Attributes:
        path: the model's file or folder.
        name: what the caller called it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        path: Path,
        *,
        name: str | None = None,
        close: Callable[[], None] = _nothing,
    ) -> None:
        self._tokenizer = tokenizer
        self._close = close
        self.path = path
        self.name = name or path.stem

    def __enter__(self) -> LoadedTokenizer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def tokenize(self, text: str, *, special: bool = False, ends: bool = True) -> list[int]:
        """Give the tokens of a text.

        Args:
            text: an empty one gives the tokens around it.
            special: whether the text of a control token becomes that token.
            ends: with the tokens that the model has before (and behind) a whole text.

        Raises:
            UsageError: the text has no UTF-8 form (lone surrogates).
        """
        return self._tokenizer.tokenize(text, special=special, ends=ends)

    def chat_tokens(self, messages: Sequence[Message]) -> list[int]:
        """Give the tokens of a conversation that the model is to answer, by its chat template.

        Raises:
            UsageError: there are no messages.
            TemplateError: the model has no chat template, or it refuses the messages.
        """
        from edgellm.generate.prompt import chat_tokens
        from edgellm.generate.template import ChatTemplate

        source = self._tokenizer.chat_template
        if source is None:
            raise TemplateError(f"{self.name} has no chat template")
        if not messages:
            raise UsageError("a conversation needs at least one message")
        template = ChatTemplate(source, bos=self._tokenizer.bos_text, eos=self._tokenizer.eos_text)
        return chat_tokens(self._tokenizer, template, list(messages))

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Give what tokens stand for; see `piece_texts`.

        Raises:
            UsageError: a number is no token.
        """
        return piece_texts(self._tokenizer, tokens)

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""
        self._close()
