"""What fits: the context that memory leaves room for, and the layers that an accelerator holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from edgellm.device.memory import (
    CELLS,
    Runtime,
    cache_bytes,
    cached_layers,
    compute_bytes,
    draft_bytes,
    has_cache,
    process_bytes,
)
from edgellm.errors import DoesNotFitError

__all__ = [
    "DEFAULT_CONTEXT",
    "SMALLEST_CONTEXT",
    "Choice",
    "Demand",
    "Needs",
    "choose_context",
    "layers_that_fit",
]

# The context when nobody asks for a size, if the model was trained on as much: enough for a long
# conversation, and small enough in memory (512 MB for an 8B model with grouped-query attention).
DEFAULT_CONTEXT = 4096
# Below this a conversation is not worth beginning.
SMALLEST_CONTEXT = 512
# What drivers and other programs want of an accelerator's memory.
RESERVE = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Demand:
    """What a model takes at a context of `context` tokens, in bytes."""

    context: int
    weights: int
    cache: int
    compute: int
    process: int

    @property
    def total(self) -> int:
        """All of it together."""
        return self.weights + self.cache + self.compute + self.process


@dataclass(frozen=True)
class Needs:
    """A model as far as its memory goes.

    Attributes:
        metadata: as of a GGUF file; of a folder, what `folder_metadata` gives.
        tensors: bytes of each, by its name.
    """

    metadata: Mapping[str, object]
    tensors: Mapping[str, int] = field(repr=False)

    @cached_property
    def weights(self) -> int:
        """Bytes of all tensors."""
        return sum(self.tensors.values())

    @property
    def trained_context(self) -> int | None:
        """Tokens that it was trained on; None if the metadata do not tell."""
        name = self.metadata.get("general.architecture")
        value = self.metadata.get(f"{name}.context_length")
        return value if type(value) is int and 0 < value < 2**31 else None

    def demand(self, runtime: Runtime) -> Demand | None:
        """Give what it takes; None where the metadata do not tell."""
        layers, compute = cached_layers(self.metadata), compute_bytes(self.metadata, runtime)
        if layers is None or compute is None:
            return None
        cache, process = cache_bytes(layers, runtime), process_bytes(self.metadata)
        compute += draft_bytes(self.metadata)
        return Demand(runtime.context, self.weights, cache, compute, process)

    def largest_context(self, available: int, most: int, cache: str = "f16") -> int | None:
        """Give the largest context up to `most` that fits, 0 for none; None where nothing tells."""

        def fits(context: int) -> bool | None:
            demand = self.demand(Runtime(context, cache))
            return None if demand is None else demand.total <= available

        whole = fits(most)
        if whole is None or whole:
            return most if whole else None
        # Memory grows with whole cells: the largest number of them that fits, and its successor
        # does not.
        good, bad = 0, -(-most // CELLS)
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if fits(middle * CELLS) else (good, middle)
        return good * CELLS


@dataclass(frozen=True, slots=True)
class Choice:
    """The context that was chosen.

    Attributes:
        context: tokens.
        usual: what it would be if memory were no question.
        demand: what the model takes with it; None where its metadata do not tell.
        available: bytes that were free for it.
    """

    context: int
    usual: int
    demand: Demand | None
    available: int

    @property
    def reduced(self) -> bool:
        """Whether memory made it smaller than usual."""
        return self.context < self.usual


def choose_context(
    needs: Needs, available: int, *, wanted: int | None = None, cache: str = "f16", name: str = ""
) -> Choice:
    """Choose the context: what is wanted, or the largest up to `DEFAULT_CONTEXT` that fits.

    Args:
        needs: the model.
        available: bytes that are free for it.
        wanted: tokens that someone asked for; None to choose.
        cache: type of keys and values.
        name: the model's, for errors.

    Raises:
        DoesNotFitError: what is wanted does not fit, or not even `SMALLEST_CONTEXT` does.
        UsageError: a number out of its range.
    """
    trained = needs.trained_context
    usual = wanted or min(trained or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    demand = needs.demand(Runtime(usual, cache))
    if demand is None or demand.total <= available:
        return Choice(usual, usual, demand, available)
    largest = needs.largest_context(available, usual, cache) or 0
    if wanted is None and largest >= min(SMALLEST_CONTEXT, usual):
        return Choice(largest, usual, needs.demand(Runtime(largest, cache)), available)
    least = demand if wanted else needs.demand(Runtime(min(SMALLEST_CONTEXT, usual), cache))
    raise _does_not_fit(needs, least or demand, largest, available, cache, name)


def _does_not_fit(
    needs: Needs, demand: Demand, largest: int, available: int, cache: str, name: str
) -> DoesNotFitError:
    advice = []
    if largest:
        advice.append(f"--ctx {largest} fits")
    smaller = next((t for t in ("q8_0", "q4_0") if _better(needs, demand, t, cache, available)), "")
    if smaller:
        advice.append(f"--cache-type {smaller} makes {demand.context} tokens fit")
    if not advice:
        advice.append("a smaller model, or one of fewer bits a weight, needs less")
    return DoesNotFitError(
        f"{name or 'the model'} does not fit: {_mb(available)} of memory are free, and at "
        f"{demand.context} tokens its weights take {_mb(demand.weights)}, the cache ({cache}) "
        f"{_mb(demand.cache)}, buffers {_mb(demand.compute)} and the program {_mb(demand.process)}",
        hint=f"{'; '.join(advice)}; --no-fit loads it all the same",
    )


def _better(needs: Needs, demand: Demand, other: str, cache: str, available: int) -> bool:
    """Tell whether another type of cache makes it fit."""
    if other == cache or not has_cache(needs.metadata, other):
        return False
    found = needs.demand(Runtime(demand.context, other))
    return found is not None and found.total <= available


def layers_that_fit(
    needs: Needs, runtime: Runtime, free: int, *, unified: bool = False
) -> int | None:
    """Give how many layers an accelerator's memory holds; None for all of them.

    llama.cpp counts the output matrix as a layer behind the last one, and puts layers there from
    the end. The token embeddings stay with the processor. A layer needs room for its keys and
    values; buffers, and a reserve for drivers, are needed once.

    Args:
        needs: the model.
        runtime: how it is run.
        free: bytes that are free on the accelerator; 0 if it does not tell.
        unified: its memory is main memory, so that nothing is gained by splitting a model.
    """
    layers, compute = cached_layers(needs.metadata), compute_bytes(needs.metadata, runtime)
    if unified or not free or layers is None or compute is None:
        return None
    sizes = [cache_bytes((layer,), runtime) for layer in layers]
    output = embedding = 0
    for name, size in needs.tensors.items():
        kind, _, rest = name.partition(".")
        at = rest.partition(".")[0]
        if kind == "blk" and at.isdecimal() and int(at) < len(sizes):
            sizes[int(at)] += size
        elif kind == "token_embd":
            embedding = size
        else:
            output += size
    if "output.weight" not in needs.tensors:
        output += embedding  # the same matrix serves as both, and is copied there
    left = free - RESERVE - compute - draft_bytes(needs.metadata)
    for count, size in enumerate([output, *reversed(sizes)]):
        left -= size
        if left < 0:
            return count
    return None


def _mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
