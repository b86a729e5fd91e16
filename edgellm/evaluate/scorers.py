"""Opening models to be measured, and refusing those that do not speak of the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from edgellm.backends.base import LoadOptions, Scorer, Tokenizer
from edgellm.errors import UsageError
from edgellm.models.adapter import Adapter

__all__ = ["Candidate", "check_tokens", "check_vocabulary", "inspect"]

SPACE = "\u2581"  # SentencePiece's sign for a space


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model whose headers have been checked.

    Attributes:
        path: a GGUF file, or a folder that MLX runs.
        trained_context: the number of tokens that it was trained on; None if it does not say.
        adapters: LoRA adapters that are measured with it.
    """

    path: Path
    trained_context: int | None
    adapters: tuple[Adapter, ...] = ()

    @property
    def is_folder(self) -> bool:
        """Whether MLX runs it."""
        return self.path.is_dir()

    def open(self, size: int, options: LoadOptions, cancelled: Callable[[], bool]) -> Scorer:
        """Load it for texts of `size` tokens.

        Raises:
            BackendError: its backend is not installed, or cannot run it.
            DoesNotFitError: there is not enough memory.
            CancelledError: `cancelled` gave True.
        """
        options = replace(options, adapters=self.adapters)
        if self.is_folder:
            from edgellm.backends.mlx.scorer import MLXScorer

            return MLXScorer(self.path, cancelled, options.adapters)
        from edgellm.backends.llama_cpp.scorer import LlamaCppScorer

        return LlamaCppScorer(self.path, size, options, cancelled)


def inspect(path: Path) -> Candidate:
    """Check the headers of a model, before native code sees it.

    Raises:
        ConvertersError: the file or folder is damaged or would harm native code.
    """
    if path.is_dir():
        from edgellm.models.check_folder import check_model_folder, trained_context

        return Candidate(path, trained_context(check_model_folder(path).config))
    from edgellm.models.check import check_model_file

    metadata = check_model_file(path).metadata
    trained = metadata.get(f"{metadata['general.architecture']}.context_length")
    return Candidate(path, trained if isinstance(trained, int) else None)


def check_vocabulary(first: Scorer, second: Scorer) -> None:
    """Refuse models of unequal vocabularies.

    Raises:
        UsageError: their logits cannot be compared.
    """
    if first.vocabulary_size != second.vocabulary_size:
        raise UsageError(
            f"{first.path} has a vocabulary of {first.vocabulary_size} tokens, and {second.path} "
            f"one of {second.vocabulary_size}",
            hint="only models of one vocabulary can be compared token by token",
        )


def check_tokens(
    lead: Tokenizer, lead_path: Path, other: Tokenizer, path: Path, tokens: Iterable[int]
) -> None:
    """Refuse a model for which tokens of the texts mean something else.

    Raises:
        UsageError: a token is another one there.
    """
    for token in tokens:
        here, there = lead.token_text(token), other.token_text(token)
        if here.replace(SPACE, " ") != there.replace(SPACE, " "):
            raise UsageError(
                f"token {token} is {here!r:.60} in {lead_path} and {there!r:.60} in {path}: they "
                "have other tokenizers",
                hint="only models of one vocabulary can be compared token by token",
            )
