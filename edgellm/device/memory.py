"""How much memory a model takes while it runs: weights, cache, buffers, and the program itself.

All numbers are bytes. The cache is counted as llama.cpp allocates it. What its graph needs between
the operations is estimated: its allocator reuses memory in ways that no short formula follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgellm.errors import DoesNotFitError, UsageError

__all__ = [
    "CACHE_TYPES",
    "DRAFT_MAX",
    "ENCODERS",
    "LayerCache",
    "Runtime",
    "cache_bytes",
    "cached_layers",
    "compute_bytes",
    "draft_bytes",
    "folder_metadata",
    "has_cache",
    "process_bytes",
    "scores_batch",
    "weight_budget",
]

LIMIT = 2**31 - 1
LAYERS = 100_000

CACHE_TYPES: Mapping[str, tuple[int, int]] = {
    "f32": (1, 4),
    "f16": (1, 2),
    "q8_0": (32, 34),
    "q5_1": (32, 24),
    "q5_0": (32, 22),
    "q4_1": (32, 20),
    "q4_0": (32, 18),
}
"""Numbers in a block of the cache, and its bytes."""

ENCODERS = ("gemma-embedding", "t5encoder")
"""Architectures that llama.cpp runs without a cache, whatever their metadata say."""

# Tokens that are guessed and evaluated along with one that is known.
DRAFT_MAX = 16

# llama.cpp rounds the tokens of a cache up to this.
CELLS = 256

# Heads up to this many values get a matrix of scores, if it is no larger than that, and prompts are
# read by so many tokens (with 512 SmolLM2 reads 4 to 7 % fewer a second).
NARROW_HEAD, SCORES_BYTES, SCORES_BATCH = 96, 128 * 2**20, 128

# Every n-th layer sees the whole context, where the file does not say so itself. These are the
# values that llama.cpp takes for the architecture.
_PATTERNS: Mapping[str, int] = {
    "afmoe": 4,
    "cohere2": 4,
    "exaone4": 4,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "olmo2": 4,
}

# The keys of a GGUF file, and those of a config.json that say the same.
_CONFIG: Mapping[str, str] = {
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "expert_count": "num_local_experts",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_used_count": "num_experts_per_tok",
    "feed_forward_length": "intermediate_size",
    "vocab_size": "vocab_size",
}

# A Python process with numpy and llama.cpp loaded, and what a token of a vocabulary and a merge of
# two take there (benchmarks/memory_model.py).
_PROCESS = 38 * 2**20
_TOKEN = 210
_MERGE = 150


@dataclass(frozen=True, slots=True)
class Runtime:
    """How a model is run.

    Attributes:
        context: tokens that it can hold.
        cache: type of keys and values, one of `CACHE_TYPES`.
        batch: tokens of a prompt that are evaluated at once (llama.cpp's n_ubatch).
        whole: keep the whole context for layers with a sliding window too, as edgellm's own
            contexts do, so that a text can be gone back in.
        offloaded: layers lie on an accelerator.

    Raises:
        UsageError: a value out of its range.
    """

    context: int
    cache: str = "f16"
    batch: int = 512
    whole: bool = True
    offloaded: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.context <= LIMIT:
            raise UsageError(f"a context of {self.context} tokens is out of range")
        if self.cache not in CACHE_TYPES:
            raise UsageError(
                f"no cache has the type {self.cache!r}", hint=f"known: {', '.join(CACHE_TYPES)}"
            )
        if not 1 <= self.batch <= LIMIT:
            raise UsageError(f"a batch of {self.batch} tokens is out of range")

    @property
    def cells(self) -> int:
        """Tokens of the cache, rounded up as llama.cpp does."""
        return _up(self.context, CELLS)


@dataclass(frozen=True, slots=True)
class LayerCache:
    """What a layer keeps: numbers that a token adds to keys and to values; bytes once for all.

    `window` is how many tokens it looks back, 0 for all.
    """

    key: int = 0
    value: int = 0
    window: int = 0
    state: int = 0


def cached_layers(metadata: Mapping[str, object]) -> tuple[LayerCache, ...] | None:
    """Read from the metadata of a GGUF file what each layer keeps; None where they do not tell.

    Empty for an encoder, which keeps nothing.
    """
    values = _Values(metadata)
    layers = values.number("block_count")
    if values.get("attention.causal") is False or values.architecture in ENCODERS:
        return ()
    if not layers or layers > LAYERS:
        return None
    heads = max(values.each("attention.head_count", layers), default=0)
    heads_kv = values.each("attention.head_count_kv", layers) or [heads] * layers
    width = values.number("embedding_length") or 0
    usual = width // heads if heads else 0
    key = values.number("attention.key_length") or usual
    value = values.number("attention.value_length") or usual
    key_near = values.number("attention.key_length_swa") or key
    value_near = values.number("attention.value_length_swa") or value
    # Latent attention (DeepSeek-V2) reads its values out of the keys.
    latent = bool(values.number("attention.key_length_mla"))
    states = _state_bytes(values, width)
    if not states and not (key and value and heads):
        return None
    near = _windows(values, layers)
    shared = values.number("attention.shared_kv_layers") or 0
    interval = values.number("full_attention_interval") or 0
    found = []
    for at in range(layers):
        if (interval and (at + 1) % interval) or (states and not heads_kv[at]):
            found.append(LayerCache(state=states))
        elif at >= layers - shared:
            found.append(LayerCache())
        else:
            many = heads_kv[at]
            keys, kept = (key_near, value_near) if near[at] else (key, value)
            found.append(LayerCache(many * keys, 0 if latent else many * kept, near[at]))
    return tuple(found)


def folder_metadata(config: Mapping[str, object]) -> dict[str, object]:
    """Give the numbers of a folder's config.json by the keys that a GGUF file has for them.

    Only those on which memory depends; what a family has beside them is not read.
    """
    text = config.get("text_config")
    found: dict[str, object] = {"general.architecture": "folder"}
    for source in (config, text if isinstance(text, dict) else {}):
        for ours, theirs in _CONFIG.items():
            if theirs in source:
                found[f"folder.{ours}"] = source[theirs]
    head = found.get("folder.attention.key_length")
    found["folder.attention.value_length"] = head
    return found


def has_cache(metadata: Mapping[str, object], cache: str) -> bool:
    """Tell whether llama.cpp can keep this model's cache so: rows of a head are whole blocks."""
    values = _Values(metadata)
    layers = values.number("block_count") or 0
    heads = max(values.each("attention.head_count", min(layers, LAYERS)), default=0)
    usual = (values.number("embedding_length") or 0) // heads if heads else 0
    widths = (values.number(f"attention.{kind}_length") or usual for kind in ("key", "value"))
    return not any(width % CACHE_TYPES[cache][0] for width in widths)


def cache_bytes(layers: tuple[LayerCache, ...], runtime: Runtime) -> int:
    """Give what llama.cpp allocates for keys, values and states of one text."""
    block, size = CACHE_TYPES[runtime.cache]
    total = 0
    for layer in layers:
        cells = runtime.cells
        if layer.window and not runtime.whole:
            cells = _up(min(cells, layer.window + runtime.batch), CELLS)
        total += cells * sum(-(-width // block) * size for width in (layer.key, layer.value))
        total += layer.state
    return total


def scores_batch(head: int, heads: int, runtime: Runtime) -> int | None:
    """Choose how llama.cpp computes attention: with a matrix of scores, or as flash attention.

    Flash attention needs no such matrix, and reads a prompt a tenth faster. But for each token that
    is written, its kernel for processors takes as long over a token in the cache whether a head has
    64 values or 128, which for 64 is more than twice what products of matrices take: behind 2,048
    tokens SmolLM2-135M writes 69 tokens a second with scores and 31 without
    (docs/measurements.md). So narrow heads get the matrix, as long as it is small.

    Args:
        head: values of a key in one head; 0 if they are not known.
        heads: of queries.
        runtime: how the model is run.

    Returns:
        How many tokens of a prompt are evaluated at once, with scores; None for flash attention.
    """
    batch = min(SCORES_BATCH, runtime.batch, runtime.cells)
    wide = not 0 < head <= NARROW_HEAD or 4 * heads * runtime.cells * batch > SCORES_BYTES
    return None if wide or runtime.offloaded or runtime.cache != "f16" else batch


def compute_bytes(metadata: Mapping[str, object], runtime: Runtime) -> int | None:
    """Estimate what llama.cpp's graph and output take on a CPU; None where metadata do not tell.

    The largest moment of a batch is a feed-forward layer (the two factors of its product and the
    product) beside four states of the residual stream, or the sum over experts (each one's output,
    before and after its weight), in float32; then a mask for each kind of attention in float16, and
    the logits of one token. Attention is computed as `scores_batch` says; a matrix of scores stands
    beside queries, their results and the residual stream. For real shapes from SmolLM2-135M to
    Qwen3-30B-A3B this is 0 to 3 % more than what it allocates with flash attention.
    """
    values = _Values(metadata)
    width, layers = values.number("embedding_length"), values.number("block_count")
    if not width or not layers or layers > LAYERS:
        return None
    heads = max(values.each("attention.head_count", layers), default=0)
    inner = max(values.each("feed_forward_length", layers), default=0)
    used = values.number("expert_used_count") or 0
    expert = used * (values.number("expert_feed_forward_length") or inner)
    head = values.number("attention.key_length") or (width // heads if heads else 0)
    attention = heads * head
    state = values.number("ssm.inner_size") or 0
    scored = scores_batch(head, heads, runtime)
    batch = scored or min(runtime.batch, runtime.cells)
    at_once = max(
        heads * runtime.cells + 3 * attention + 3 * width if scored else 0,
        4 * width + 3 * max(expert or inner, attention),
        4 * width + 4 * state,
        3 * width + 2 * used * width + expert,
    )
    found = cached_layers(metadata) or ()
    windows = {layer.window for layer in found if layer.key}
    masks = sum(
        runtime.cells if runtime.whole or not window else min(runtime.cells, window + batch)
        for window in windows
    )
    vocabulary = _vocabulary(metadata)
    mask = 4 if scored else 2  # bytes of a value
    return 4 * batch * at_once + mask * batch * masks + 2 * 4 * vocabulary


def draft_bytes(metadata: Mapping[str, object]) -> int:
    """Give what the logits of the longest draft take."""
    return 4 * DRAFT_MAX * _vocabulary(metadata)


def process_bytes(metadata: Mapping[str, object]) -> int:
    """Estimate what the program takes beside the model: its code, Python, and the vocabulary."""
    merges = _length(metadata, "tokenizer.ggml.merges") or 0
    return _PROCESS + _TOKEN * _vocabulary(metadata) + _MERGE * merges


def weight_budget(
    available: int, metadata: Mapping[str, object], runtime: Runtime, device: str = "the device"
) -> int:
    """Give the bytes that are left for weights.

    Args:
        available: bytes that the device leaves to programs.
        metadata: of the model's GGUF file, or of the one that is written.
        runtime: how it is run.
        device: its name, for the error.

    Raises:
        DoesNotFitError: cache and buffers alone take more.
        UsageError: the metadata do not tell what they take.
    """
    layers, compute = cached_layers(metadata), compute_bytes(metadata, runtime)
    if layers is None or compute is None:
        raise UsageError(
            "the model's metadata do not tell how large its cache is",
            hint="give the size of the file instead",
        )
    cache, process = cache_bytes(layers, runtime), process_bytes(metadata)
    left = available - cache - compute - process
    if left <= 0:
        raise DoesNotFitError(
            f"{device} leaves {available} bytes to a model, and at {runtime.context} tokens the "
            f"cache takes {cache}, buffers {compute} and the program {process}",
            hint="a shorter context, or a cache of fewer bits (q8_0), needs less",
        )
    return left


class _Values:
    """Numbers of metadata, each bounded before it is used."""

    def __init__(self, metadata: Mapping[str, object]) -> None:
        name = metadata.get("general.architecture")
        self.architecture = name if isinstance(name, str) else ""
        self._metadata = metadata
        self._prefix = f"{self.architecture}."

    def get(self, key: str) -> object:
        return self._metadata.get(self._prefix + key)

    def number(self, key: str) -> int | None:
        return _number(self.get(key))

    def each(self, key: str, layers: int) -> list[int]:
        """Give a number for each layer; empty if there is none."""
        value = self.get(key)
        if isinstance(value, list):
            numbers = [_number(each) or 0 for each in value[:layers]]
            return numbers + [0] * (layers - len(numbers))
        number = _number(value)
        return [] if number is None else [number] * layers


def _windows(values: _Values, layers: int) -> list[int]:
    """Give how far each layer looks back, 0 for all."""
    window = values.number("attention.sliding_window") or 0
    pattern = values.get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        marks = [bool(mark) for mark in pattern[:layers]]
        return [window * mark for mark in marks] + [0] * (layers - len(marks))
    every = _number(pattern) or _PATTERNS.get(values.architecture, 1)
    return [window if at % every < every - 1 else 0 for at in range(layers)]


def _state_bytes(values: _Values, width: int) -> int:
    """Give the bytes of a recurrent layer's state: Mamba's, LFM2's convolution or RWKV's."""
    get = values.number
    convolution = get("shortconv.l_cache")
    if convolution:
        return 4 * width * (convolution - 1)
    head = get("wkv.head_size")
    if head:
        return 4 * width * (head + (get("token_shift_count") or 2))
    inner, size = get("ssm.inner_size") or 0, get("ssm.state_size") or 0
    kernel, groups = get("ssm.conv_kernel") or 1, get("ssm.group_count") or 0
    return 4 * ((kernel - 1) * (inner + 2 * groups * size) + inner * size)


def _vocabulary(metadata: Mapping[str, object]) -> int:
    tokens = _length(metadata, "tokenizer.ggml.tokens")
    if tokens is None:
        tokens = _number(metadata.get(f"{metadata.get('general.architecture')}.vocab_size"))
    return tokens or 0


def _length(metadata: Mapping[str, object], key: str) -> int | None:
    """Count an array, of a file without decoding it; None if there is none."""
    from edgellm_converters.checkpoints.gguf_values import Metadata

    if isinstance(metadata, Metadata):
        return metadata.stored(key).length if key in metadata else None
    array = metadata.get(key)
    return len(array) if isinstance(array, list) else None


def _number(value: object) -> int | None:
    """Take a number of a file only if it is a whole one in a sane range."""
    return value if type(value) is int and 0 <= value <= LIMIT else None


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
