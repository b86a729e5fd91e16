"""The tokenizer of a folder, read by transformers (which mlx-lm brings along)."""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path
from typing import Any

from edgellm.backends.mlx.library import library, sentence
from edgellm.errors import BackendError, UsageError
from edgellm_converters.jsonfile import read_object
from edgellm_converters.tokenizers.parts import SEEMS_SPECIAL

__all__ = ["FolderTokenizer"]

SPACE = "\u2581"  # SentencePiece's sign for a space
# Tokens that end a text by their names, whatever the folder says of them (llama.cpp's
# `llama-vocab.cpp`): of turns and texts, and of what else comes in training for infilling code.
ENDERS = frozenset((
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>",
    "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
))  # fmt: skip
# Where all of these are tokens, the last is a part of an answer and not its end.
INNER = (
    ("<|return|>", "<|call|>", "<|end|>"),
    ("<|call|>", "<|flush|>", "<|end|>"),
    ("<|calls|>", "<|flush|>", "<|end|>"),
    ("<|tool_response>", "</s>"),
)
# Control tokens whose texts a person sees: what is between them is read by their names.
SHOWN = frozenset(("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"))


class FolderTokenizer:
    """See `edgellm.backends.base.Tokenizer`.

    Raises:
        BackendError: transformers cannot read it.
    """

    def __init__(self, folder: Path) -> None:
        library()  # keeps transformers quiet
        import transformers

        self.path = folder
        # A tokenizer.json says all. Other files are read by what the model's class makes of them.
        whole = (folder / "tokenizer.json").is_file()
        kind = transformers.PreTrainedTokenizerFast if whole else transformers.AutoTokenizer
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._tokenizer: Any = kind.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False
                )
            # Its steps back to text.
            decoder = self._tokenizer.backend_tokenizer.decoder
            steps = {} if decoder is None else json.loads(decoder.__getstate__())
        except Exception as error:  # whatever a file leads that library to
            raise BackendError(
                f"{folder}: transformers cannot read its tokenizer: {sentence(error)}"
            ) from error
        self._steps = frozenset(
            str(step.get("type")) for step in steps.get("decoders", [steps]) if step
        )
        self._size = len(self._tokenizer)  # which transformers counts anew each time
        added = self._tokenizer.added_tokens_decoder
        self._added: dict[int, str] = {token: entry.content for token, entry in added.items()}
        there = {name: token for name in ENDERS | SHOWN if (token := self._find(name)) is not None}
        inner = {names[-1] for names in INNER if all(name in there for name in names)}
        self._control = {
            token: text
            for token, text in self._added.items()
            if (added[token].special or SEEMS_SPECIAL.fullmatch(text)) and text not in SHOWN | inner
        }
        named = {token: name for name, token in there.items() if name in ENDERS - inner}
        self._control |= named
        self.end_tokens = frozenset((*named, *self._configured_enders()))
        self.suppressed = self._numbers("generation_config.json", "suppress_tokens")

    def _find(self, name: str) -> int | None:
        """Give the token of this name; None if there is none."""
        token = self._tokenizer.convert_tokens_to_ids(name)
        return token if token is not None and self.token_text(token) == name else None

    def _configured_enders(self) -> list[int]:
        """The ends that the folder's files name."""
        found = [
            token
            for name in ("generation_config.json", "config.json")
            for token in self._numbers(name, "eos_token_id")
        ]
        own = self._tokenizer.eos_token_id
        return found if own is None else [*found, own]

    def _numbers(self, name: str, key: str) -> list[int]:
        """Read a token or a list of tokens from a file; none where there are none."""
        file = self.path / name
        config = read_object(file) if file.is_file() else {}
        inner = config.get("text_config")
        value = config.get(key)
        if value is None and isinstance(inner, dict):
            value = inner.get(key)
        values = value if isinstance(value, list) else [value]
        return [token for token in values if type(token) is int and 0 <= token < len(self)]

    def __len__(self) -> int:
        return self._size

    @property
    def chat_template(self) -> str | None:
        """Its own Jinja chat template; None if it has none."""
        template = self._tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        return template if isinstance(template, str) else None

    @functools.cached_property
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

    def tokenize(self, text: str, *, special: bool, ends: bool = False) -> list[int]:
        """Give the tokens of a text; see `edgellm.backends.base.Tokenizer.tokenize`."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(f"the text is not valid UTF-8 (at character {error.start})") from error
        return list(
            self._tokenizer.encode(
                text, add_special_tokens=ends, split_special_tokens=not special, verbose=False
            )
        )

    def control_text(self, token: int) -> str | None:
        """Give the text of a control token; None if the token is not one."""
        return self._control.get(token)

    def token_text(self, token: int) -> str:
        """Give a token as the vocabulary writes it; empty where there is none."""
        # Of an added token that is looked for in normalized text, tokenizers gives that form.
        return self._added.get(token) or str(self._tokenizer.convert_ids_to_tokens(token) or "")

    def piece(self, token: int) -> bytes | None:
        """Give the bytes of a token in a text; None for one that ends the text.

        Empty for control tokens and for numbers that are no token.

        Raises:
            BackendError: the tokenizer turns tokens into text in a way that is not known here.
        """
        if token in self.end_tokens:
            return None
        if token in self._control or token >= len(self):
            return b""
        if self._steps & {"WordPiece", "CTC", "BPEDecoder"}:
            raise BackendError(
                f"{self.path}: its tokenizer's decoder {', '.join(sorted(self._steps))} is not "
                "known here"
            )
        return self.token_bytes(token)

    def token_bytes(self, token: int) -> bytes:
        """Give the bytes of a token; see `edgellm.backends.base.Tokenizer.token_bytes`."""
        if not 0 <= token < len(self):
            raise UsageError(f"{token} is no token: there are {len(self)}")
        text = self.token_text(token)
        if "ByteLevel" in self._steps:
            if token in self._added:
                return text.encode()
            table = _bytes_of_characters()
            if all(character in table for character in text):
                return bytes(table[character] for character in text)
            return text.encode()
        if "ByteFallback" in self._steps and len(text) == 6 and text.startswith("<0x"):
            return bytes.fromhex(text[3:5])
        return text.replace(SPACE, " ").encode()


@functools.cache
def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's table: printable bytes are themselves, the others follow from U+0100 on."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in shown]
    table = {chr(byte): byte for byte in shown}
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}
