"""The tokenizer of a folder, read by transformers (which mlx-lm brings along)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgellm.errors import BackendError, UsageError

__all__ = ["FolderTokenizer"]


class FolderTokenizer:
    """See `edgellm.backends.base.Tokenizer`.

    Raises:
        BackendError: transformers cannot read it.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self.path = folder
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # whatever a file leads that library to
            raise BackendError(
                f"{folder}: transformers cannot read its tokenizer: {first_line(error)}"
            ) from error
        self._control = {
            token: added.content
            for token, added in self._tokenizer.added_tokens_decoder.items()
            if added.special
        }

    @property
    def chat_template(self) -> str | None:
        """Its own Jinja chat template; None if it has none."""
        template = self._tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        return template if isinstance(template, str) else None

    @property
    def start_token(self) -> int | None:
        """The beginning-of-sequence token, where the tokenizer puts it before a text."""
        token = self._tokenizer.bos_token_id
        return token if token is not None and self._tokenizer.encode("a")[:1] == [token] else None

    @property
    def bos_text(self) -> str:
        """The text of the beginning-of-sequence token."""
        return self._tokenizer.bos_token or ""

    @property
    def eos_text(self) -> str:
        """The text of the end-of-sequence token."""
        return self._tokenizer.eos_token or ""

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Give the tokens of a text; see `edgellm.backends.base.Tokenizer.tokenize`."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(f"the text is not valid UTF-8 (at character {error.start})") from error
        return list(
            self._tokenizer.encode(
                text, add_special_tokens=False, split_special_tokens=not special, verbose=False
            )
        )

    def control_text(self, token: int) -> str | None:
        """Give the text of a control token; None if the token is not one."""
        return self._control.get(token)

    def token_text(self, token: int) -> str:
        """Give a token as the vocabulary writes it; empty where there is none."""
        return self._tokenizer.convert_ids_to_tokens(token) or ""


def first_line(error: BaseException) -> str:
    """Give the first line of an error's text, cut to what fits a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
