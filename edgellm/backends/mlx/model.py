"""A folder in MLX: its vocabulary and what config.json says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm.backends.base import Sampling
from edgellm.backends.mlx.adapters import Adapters
from edgellm.backends.mlx.branches import MLXBranches
from edgellm.backends.mlx.context import MLXContext
from edgellm.backends.mlx.device import on_cpu
from edgellm.backends.mlx.dry import Breakers, breaker_tokens
from edgellm.backends.mlx.library import CLOSED
from edgellm.backends.mlx.loading import load
from edgellm.backends.mlx.sampler import Sampler
from edgellm.backends.mlx.tokenizer import FolderTokenizer
from edgellm.models.check_folder import trained_context

if TYPE_CHECKING:
    from edgellm.models.adapter import Adapter

__all__ = ["MLXModel"]

# Of models without positions, such as Mamba: what llama.cpp's converter writes for them.
UNLIMITED = 1 << 20


class MLXModel:
    """See `edgellm.backends.base.Model`."""

    def __init__(
        self, path: Path, cancelled: Callable[[], bool], given: Sequence[Adapter] = ()
    ) -> None:
        self.path = path
        self.loaded: Any = load(path, cancelled)
        self.scales = tuple(adapter.scale for adapter in given)
        exact = self.loaded.native.core.float32 if on_cpu() else None
        self.adapters: Any = Adapters(self.loaded.native, self.loaded.model, given, exact)
        self.tokenizer: Any = FolderTokenizer(path)
        self._pieces: dict[int, bytes | None] = {}
        self._breakers: dict[tuple[str, ...], Breakers] = {}  # of the last texts

    @property
    def description(self) -> str:
        """A line about it for people."""
        weights = self.loaded.weights
        size = f"{weights / 1e9:.1f} G" if weights >= 10**9 else f"{weights / 1e6:.1f} M"
        return f"{self.loaded.config['model_type']}, {size} weights, {self.loaded.storage}"

    @property
    def vocabulary_size(self) -> int:
        """The number of logits after a token."""
        return int(self.loaded.width)

    @property
    def trained_context(self) -> int:
        """The number of tokens that it was trained on."""
        return trained_context(self.loaded.config) or UNLIMITED

    @property
    def threads(self) -> int | None:
        """MLX takes no number of them."""
        return None

    @property
    def batches_pay(self) -> bool:
        """Whether a few tokens in one batch take much less time than one by one."""
        return not on_cpu()

    @property
    def chat_template(self) -> str | None:
        """Its own Jinja chat template; None if it has none."""
        template: str | None = self.tokenizer.chat_template
        return template

    @property
    def start_token(self) -> int | None:
        """The beginning-of-sequence token, where the tokenizer puts it before a text."""
        token: int | None = self.tokenizer.start_token
        return token

    @property
    def bos_text(self) -> str:
        """The text of the beginning-of-sequence token."""
        return str(self.tokenizer.bos_text)

    @property
    def eos_text(self) -> str:
        """The text of the end-of-sequence token."""
        return str(self.tokenizer.eos_text)

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens that end a text."""
        found: frozenset[int] = self.tokenizer.end_tokens
        return found

    def tokenize(self, text: str, *, special: bool, ends: bool = False) -> list[int]:
        """Give the tokens of a text; see `edgellm.backends.base.Tokenizer.tokenize`."""
        tokens: list[int] = self.tokenizer.tokenize(text, special=special, ends=ends)
        return tokens

    def control_text(self, token: int) -> str | None:
        """Give the text of a control token; None if the token is not one."""
        text: str | None = self.tokenizer.control_text(token)
        return text

    def token_text(self, token: int) -> str:
        """Give a token as the vocabulary writes it."""
        return str(self.tokenizer.token_text(token))

    def token_bytes(self, token: int) -> bytes:
        """Give the bytes of a token; see `edgellm.backends.base.Tokenizer.token_bytes`."""
        return bytes(self.tokenizer.token_bytes(token))

    def open_context(self, size: int, cache_type: str = "f16", drafts: int = 0) -> MLXContext:
        """Make a context; see `edgellm.backends.base.Model.open_context`."""
        return MLXContext(self, size, cache_type, drafts)

    def branch_tokens(self, prompt: int, answer: int, count: int) -> int:
        """Give how many tokens are kept; see `edgellm.backends.base.Model.branch_tokens`."""
        return count * (prompt + answer)

    def open_branches(
        self, prompt: int, answer: int, count: int, cache_type: str = "f16"
    ) -> MLXBranches:
        """Make room for branches; see `edgellm.backends.base.Model.open_branches`."""
        return MLXBranches(self, prompt + answer, count, cache_type)

    def piece(self, token: int) -> bytes | None:
        """Give the bytes of a token in a text; None for one that ends the text."""
        if token not in self._pieces:
            self._pieces[token] = self.tokenizer.piece(token)
        return self._pieces[token]

    def sampler(self, sampling: Sampling, prompt: Sequence[int]) -> Sampler:
        """Make what chooses the tokens of one text behind a prompt."""
        breakers: Breakers = {}
        if sampling.breaks_repetitions:
            texts = tuple(sampling.dry_breakers)
            if texts not in self._breakers:
                self._breakers = {texts: breaker_tokens(self, len(self.tokenizer), texts)}
            breakers = self._breakers[texts]
        return Sampler(sampling, self.tokenizer.suppressed, prompt, breakers)

    def close(self) -> None:
        """Free the memory; closing twice does nothing. Contexts on it must be closed before."""
        self.loaded = self.tokenizer = self.adapters = CLOSED
