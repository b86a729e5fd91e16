"""What a backend must be able to do, and the table of backends.

A backend loads a model and gives contexts; a context evaluates tokens and samples from what came
out. Everything above it (templates, UTF-8, stop strings, conversations) is the same for every
backend and lies in `edgellm.generate`. To add one: its module with an object called `backend`, and
one row in `BACKENDS`.
"""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from edgellm.backends.sampling import SEED_LIMIT, Sampling
from edgellm.errors import BackendError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgellm.models.adapter import Adapter

__all__ = [
    "BACKENDS",
    "CACHE_TYPES",
    "SEED_LIMIT",
    "Accelerator",
    "Backend",
    "Branches",
    "CancelledError",
    "Chooser",
    "Constraint",
    "Context",
    "Drafter",
    "Embedder",
    "LoadOptions",
    "Model",
    "Sampling",
    "Scorer",
    "Tokenizer",
    "get_backend",
    "output_limit",
    "select",
]

# name -> the module that holds the object `backend`; the first one that accepts a file gets it.
BACKENDS: dict[str, str] = {
    "llama_cpp": "edgellm.backends.llama_cpp.backend",
    "mlx": "edgellm.backends.mlx.backend",
}

# How keys and values are kept in a context; the names are ggml's, as llama.cpp's --cache-type-k has
# them. MLX's nearest are the type that it computes in (f16), and its own groups with 8 or 4 bits.
CACHE_TYPES = ("f16", "q8_0", "q4_0")
# Of logits that a scorer gives at a time: half a context for a vocabulary of 65,000 tokens, and
# little beside a model for the largest, whose logits of a whole context take half a gigabyte.
OUTPUT_BYTES = 64 * 2**20


class CancelledError(Exception):
    """The caller asked to stop while a model was loaded or a prompt was evaluated."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A device beside the processor on which a backend can compute.

    Attributes:
        name: as the backend calls it.
        description: the maker's name of it.
        kind: "gpu", "igpu" (part of the processor) or "accel".
        memory_free: bytes of its memory that are free; 0 if not known.
        memory_total: bytes of its memory.
        unified: its memory is the machine's main memory.
    """

    name: str
    description: str
    kind: str
    memory_free: int
    memory_total: int
    unified: bool


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is loaded.

    Attributes:
        threads: None takes the number of physical cores that this process may use.
        gpu_layers: layers on an accelerator, where the backend was built with one; None takes all.
        adapters: LoRA adapters of the model, whose scales its contexts begin with.

    Raises:
        UsageError: a value out of its range.
    """

    threads: int | None = None
    gpu_layers: int | None = None
    adapters: tuple[Adapter, ...] = ()

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= 512:
            raise UsageError(f"threads is {self.threads}, and must lie between 1 and 512")
        if self.gpu_layers is not None and not 0 <= self.gpu_layers < 10_000:
            raise UsageError(f"gpu_layers is {self.gpu_layers}, and must lie between 0 and 9999")


class Constraint(Protocol):
    """Which tokens may come next in one text; its state is behind the tokens that it took."""

    @property
    def complete(self) -> bool:
        """Whether the text is whole and nothing but its end may follow."""

    def allows(self, token: int) -> bool:
        """Tell whether a token may come next; one that ends the text may where the text is whole.

        Raises:
            UsageError: the constraint is too complex to go on.
        """

    def mask(self) -> npt.NDArray[np.bool_]:
        """Give whether each token may come next, (vocabulary,); at least one may.

        Raises:
            UsageError: the constraint is too complex to go on.
        """

    def take(self, token: int) -> None:
        """Go on behind a token that may come next.

        Raises:
            UsageError: it may not.
        """

    def forced(self, token: int) -> Sequence[int]:
        """Give tokens that spell what has to follow behind this one; none where there is a choice.

        A model may cut the same bytes into other tokens.
        """

    def satisfied_by(self, text: str) -> bool:
        """Tell whether the text may end behind this one, which goes on from here."""

    def copy(self) -> Constraint:
        """Give one of its own state, for another text that goes on from here."""


class Drafter(Protocol):
    """Guesses what a model writes next in a text; it keeps what it would have written."""

    @property
    def drafted(self) -> int:
        """How many tokens it gave so far."""

    @property
    def accepted(self) -> int:
        """How many of them the model wrote, so that it evaluated them in another's batch."""

    def begin(self, tokens: Sequence[int]) -> None:
        """Go on from other tokens than before."""

    def propose(self, held: Sequence[int], sampled: int, limit: int) -> Sequence[int]:
        """Give tokens that may follow `held` and `sampled`: at most `limit`, none for no guess."""

    def accept(self) -> None:
        """Count the next token of the last draft as one that the model wrote."""


class Context(Protocol):
    """The evaluated tokens of one text, and the state to go on from them."""

    @property
    def size(self) -> int:
        """How many tokens it can hold."""

    @property
    def prefills(self) -> int:
        """How many prompts it was given: whoever finds another number than before has lost it."""

    @property
    def held(self) -> Sequence[int]:
        """The tokens of the text: a prompt, and what was sampled but the last token."""

    @property
    def sampled(self) -> int | None:
        """The token that was sampled last; None for none yet, or behind a complete constraint."""

    @property
    def draft_limit(self) -> int:
        """The most tokens of a draft; 0 where tokens that are evaluated cannot be taken back."""

    def prefill(
        self, tokens: Sequence[int], sampling: Sampling, cancelled: Callable[[], bool]
    ) -> int:
        """Evaluate a prompt, so that `next_piece` continues it, without constraint and drafts.

        What this context holds already is kept as far as it is the same prefix. Gives the number
        of tokens that were kept. At least one token is always evaluated.

        A backend rounds a batch of tokens otherwise than the same tokens one by one, so that the
        text after a kept prefix can differ from that of an empty context where two tokens are
        almost equally likely.

        Raises:
            CancelledError: `cancelled` gave True; the context stays usable.
            BackendError: the backend failed.
        """

    def constrain(self, constraint: Constraint | None) -> None:
        """Sample what comes next under a constraint, or under none.

        It takes each token that is sampled under it, but only when the next one is asked for: until
        then a prompt can be evaluated in its place.
        """

    def speculate(self, drafter: Drafter) -> None:
        """Evaluate what a drafter proposes in one batch with the token that was sampled last.

        Each token is still sampled, when it is asked for, from the logits after the one before it.
        As long as that gives the draft's tokens they need no evaluation; what is left of the draft
        then is taken back. So the same tokens are written as without drafts, but for rounding: see
        `prefill`. Nothing is drafted where `draft_limit` is 0.
        """

    def put(self, tokens: Sequence[int], cancelled: Callable[[], bool]) -> None:
        """Let tokens follow in place of what was sampled last, so that `next_piece` continues them.

        The samplers, and the constraint if there is one, take them as if they had been sampled. The
        samplers have taken the one that gives way too: penalties still see it.

        Raises:
            CancelledError: `cancelled` gave True.
            BackendError: the backend failed, they do not fit, or there are none.
            UsageError: the constraint does not allow them.
        """

    def next_piece(self) -> bytes | None:
        """Sample one token and give its bytes; None when the model ends its text.

        A constraint that is complete ends it too. Called again after that, it goes on behind the
        end, as measurements of speed do.

        The bytes are those of the text: empty for a control token, and perhaps only a part of a
        UTF-8 character.

        Raises:
            BackendError: the backend failed.
            UsageError: the constraint is too complex to go on.
        """

    def adapt(self, scales: Sequence[float]) -> None:
        """Let each of the adapters that the model was loaded with count so many times from now on.

        0 leaves one out, exactly. Where a scale changes, nothing is held any more.
        """

    @property
    def state_size(self) -> int:
        """How many bytes `save_state` would write now, nearly."""

    def save_state(self, path: Path) -> None:
        """Write the keys and values of the tokens in `held` to a file, over what is there.

        Raises:
            BackendError: the backend failed, or its state cannot be written.
            OSError: the file cannot be written.
        """

    def load_state(self, path: Path, tokens: Sequence[int]) -> None:
        """Take keys and values from a file that `save_state` wrote for these tokens.

        The caller vouches for the file: that it is whole, and that the same backend, model,
        size and type of cache wrote it. `held` is `tokens` afterwards; if it fails, it is empty.

        Raises:
            BackendError: the file does not hold them.
        """

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""


class Chooser(Protocol):
    """What chooses the tokens of one text among branches."""

    def choose(self, branch: int, mask: npt.NDArray[np.bool_] | None = None) -> int:
        """Choose the token that follows a branch, among those of a mask (vocabulary,).

        The branch's number may change from token to token.

        Raises:
            BackendError: the model gives logits that are no numbers.
        """


class Branches(Protocol):
    """Continuations of one prompt that are evaluated together, the prompt once for all.

    They are numbered from 0, and each has been given as many tokens as the others. A step rounds
    otherwise than a context with one text, so that a text can differ from that of a context where
    two tokens are almost equally likely.
    """

    @property
    def count(self) -> int:
        """How many there are: none before a prompt, one behind it, then as many as were kept."""

    def prefill(self, tokens: Sequence[int], cancelled: Callable[[], bool]) -> None:
        """Forget all, and evaluate a prompt: one branch follows it.

        Raises:
            CancelledError: `cancelled` gave True.
            BackendError: the backend failed.
        """

    def adapt(self, scales: Sequence[float]) -> None:
        """Let each of the adapters that the model was loaded with count so many times.

        All branches are forgotten.
        """

    def keep(self, parents: Sequence[int]) -> None:
        """Let copies of these branches stand in place of all, numbered in this order.

        One that is named twice is split, one that is not named is dropped.

        Raises:
            BackendError: there is no room for as many.
        """

    def step(self, tokens: Sequence[int]) -> None:
        """Evaluate one token behind each branch.

        Raises:
            BackendError: the backend failed, or it is full.
        """

    def logits(self) -> npt.NDArray[np.float32]:
        """Give the logits of what follows each, (count, vocabulary).

        Those of tokens that the model never writes are -inf.
        """

    def chooser(self, sampling: Sampling) -> Chooser:
        """Make what chooses the tokens of a text that begins behind the prompt."""

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""


class Tokenizer(Protocol):
    """From texts to a model's tokens, and what its chat template needs."""

    @property
    def chat_template(self) -> str | None:
        """Its own Jinja chat template; None if it has none."""

    @property
    def start_token(self) -> int | None:
        """The token that every text has to start with; None if there is none."""

    @property
    def bos_text(self) -> str:
        """The text of the beginning-of-sequence token; empty if there is none."""

    @property
    def eos_text(self) -> str:
        """The text of the end-of-sequence token; empty if there is none."""

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens that end a text."""

    def tokenize(self, text: str, *, special: bool, ends: bool = False) -> list[int]:
        """Give the tokens of a text, without adding any unless `ends` asks for it.

        With `special`, the text of a control token becomes that token; without, it is text. With
        `ends`, the tokens are around it that the model has around a whole text.

        Raises:
            UsageError: the text has no UTF-8 form (lone surrogates).
        """

    def control_text(self, token: int) -> str | None:
        """Give the text of a control token; None if the token is not one."""

    def token_text(self, token: int) -> str:
        """Give a token as the vocabulary writes it: with its sign for a space, or in hex."""

    def token_bytes(self, token: int) -> bytes:
        """Give what a token stands for in a text, of a control token its text.

        It may be a part of a UTF-8 character.

        Raises:
            UsageError: the number is no token.
        """


class Model(Tokenizer, Protocol):
    """A loaded model: its vocabulary, its template, and contexts on it."""

    @property
    def description(self) -> str:
        """A line about it for people: architecture, size, type."""

    @property
    def trained_context(self) -> int:
        """The number of tokens that it was trained on."""

    @property
    def vocabulary_size(self) -> int:
        """The number of logits after a token; tokens are the numbers below it."""

    @property
    def threads(self) -> int | None:
        """How many threads compute; None where the backend does not take a number."""

    @property
    def batches_pay(self) -> bool:
        """Whether a few tokens in one batch take much less time than one by one."""

    def open_context(self, size: int, cache_type: str = "f16", drafts: int = 0) -> Context:
        """Make a context for `size` tokens, its keys and values kept as one of `CACHE_TYPES`.

        It has room for the logits of drafts of so many tokens.

        Raises:
            DoesNotFitError: there is not enough memory.
            BackendError: the backend failed, or cannot keep this model's cache in that type.
        """

    def branch_tokens(self, prompt: int, answer: int, count: int) -> int:
        """Give of how many tokens `open_branches` keeps keys and values."""

    def open_branches(
        self, prompt: int, answer: int, count: int, cache_type: str = "f16"
    ) -> Branches:
        """Make room for a prompt and so many continuations, each of so many tokens.

        Raises:
            DoesNotFitError: there is not enough memory.
            BackendError: the backend failed, or cannot keep this model's cache in that type.
        """

    def piece(self, token: int) -> bytes | None:
        """Give the bytes of a token in a text; None for one that ends the text.

        Empty for a control token, and perhaps only a part of a UTF-8 character.
        """

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""


class Scorer(Protocol):
    """A loaded model that gives the logits of all tokens of a text: what quality is measured with.

    Attributes:
        path: the model's file or folder.
    """

    path: Path

    @property
    def tokenizer(self) -> Tokenizer:
        """Its vocabulary."""

    @property
    def vocabulary_size(self) -> int:
        """The number of logits after a token."""

    @property
    def output_limit(self) -> int:
        """The most tokens whose logits one call of `extend` gives."""

    def restart(self) -> None:
        """Forget the text so far."""

    def extend(
        self, tokens: Sequence[int], cancelled: Callable[[], bool], *, outputs: bool
    ) -> npt.NDArray[np.float32]:
        """Evaluate the next tokens of the text.

        Gives the logits after each of them, float32 (tokens, vocabulary), or none of them, (0,
        vocabulary), without `outputs`. They may lie in memory of the backend that the next call
        writes over.

        Raises:
            CancelledError: `cancelled` gave True.
            BackendError: the backend failed.
        """

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""


class Embedder(Protocol):
    """A loaded model that gives vectors of texts.

    Attributes:
        path: the model's file.
        dimension: the numbers of a vector.
        max_tokens: the longest text that it can read, the tokens around it included.
        pooling: how the vectors of tokens become one of the text: mean, cls (the first) or last.
    """

    path: Path
    dimension: int
    max_tokens: int
    pooling: str

    @property
    def tokenizer(self) -> Tokenizer:
        """Its vocabulary."""

    def embed(
        self, texts: Sequence[Sequence[int]], cancelled: Callable[[], bool]
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Evaluate texts, given as the tokens of each, as many at a time as suit the backend.

        Gives the vectors of the next texts, in order: float32 (some texts, dimension), of any
        length.

        Raises:
            CancelledError: `cancelled` gave True.
            DoesNotFitError: there is not enough memory for the longest one.
            BackendError: the backend failed, or a text has no tokens or more than `max_tokens`.
        """

    def close(self) -> None:
        """Free the memory; closing twice does nothing."""


class Backend(Protocol):
    """One implementation."""

    @property
    def name(self) -> str:
        """Its name in `BACKENDS` and in the JSON output."""

    @property
    def build(self) -> str:
        """Tells builds apart that may write other states; only where `refusal` gives None."""

    def missing(self) -> str | None:
        """Say what it lacks to run anything here, without loading it; None if it is there."""

    def accelerators(self) -> Sequence[Accelerator]:
        """List the devices beside the processor that it computes on, best first.

        Raises:
            BackendError: it cannot be loaded.
        """

    def refusal(self, path: Path) -> str | None:
        """Say why it cannot run this path, without opening it natively; None if it can."""

    def load(self, path: Path, options: LoadOptions, cancelled: Callable[[], bool]) -> Model:
        """Load a file or folder that has passed the safety check.

        Raises:
            CancelledError: `cancelled` gave True.
            BackendError: the file is not a model that it can run.
            DoesNotFitError: the weights need more memory than there is.
            UsageError: an option that the backend has nothing for.
        """


def get_backend(name: str) -> Backend:
    """Import a backend by its name.

    Raises:
        UsageError: there is no such backend.
    """
    if name not in BACKENDS:
        raise UsageError(f"no backend is called {name!r}", hint=f"known: {', '.join(BACKENDS)}")
    return cast(Backend, importlib.import_module(BACKENDS[name]).backend)


def output_limit(vocabulary_size: int, batch: int) -> int:
    """Give how many rows of float32 logits fit `OUTPUT_BYTES`: 1 to `batch`."""
    return max(1, min(batch, OUTPUT_BYTES // (4 * vocabulary_size)))


def select(path: Path, name: str | None = None) -> Backend:
    """Give the first backend that can run this file, or the one of that name.

    Raises:
        UsageError: there is no backend of that name.
        BackendError: none can; the sentence holds each one's reason.
    """
    if name is not None:
        backend = get_backend(name)
        reason = backend.refusal(path)
        if reason is not None:
            raise BackendError(f"{path}: {name} cannot run it: {reason}", hint=_hint(path))
        return backend
    reasons = []
    for name in BACKENDS:
        backend = get_backend(name)
        reason = backend.refusal(path)
        if reason is None:
            return backend
        reasons.append(f"{name}: {reason}")
    raise BackendError(f"{path}: no backend can run it ({'; '.join(reasons)})", hint=_hint(path))


def _hint(path: Path) -> str | None:
    """Say how llama.cpp, which is always there, can run what a folder holds."""
    if not path.is_dir():
        return None
    return f"llama.cpp runs its GGUF file: edgellm convert {shlex.quote(str(path))} -o model.gguf"
