"""The hyper-parameters of a GGUF file: the type and range in which llama.cpp can take each.

llama.cpp trusts most of these numbers: out of range they end in a failed assertion, which ends the
process, or in an allocation of any size. What it only refuses with an error is left to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from edgellm_converters.checkpoints.gguf_header import GGUFHeader
from edgellm_converters.checkpoints.gguf_values import INTEGERS, ValueType
from edgellm_converters.errors import CorruptFileError

__all__ = ["architecture_of", "check_parameters"]

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
# Far beyond every model there is, and small enough that no product of two overflows 63 bits.
MAX_COUNT = 1 << 30


@dataclass(frozen=True, slots=True)
class Whole:
    """A u32 in a range; `by_layer`: or an array of 32-bit integers, one for each layer."""

    low: int
    high: int
    by_layer: bool = False


@dataclass(frozen=True, slots=True)
class Real:
    """A finite f32 in a range; `open`: the lower end itself is not allowed."""

    low: float
    high: float
    open: bool = False


@dataclass(frozen=True, slots=True)
class Flag:
    """A boolean."""


@dataclass(frozen=True, slots=True)
class Text:
    """A string; `words`: one of these."""

    words: tuple[str, ...] = ()


Rule = Whole | Real | Flag | Text

HEAD = Whole(1, 1 << 16)
EPSILON = Real(0.0, 1.0)

# Keys below "<architecture>.".
ARCHITECTURE_RULES: dict[str, Rule] = {
    "block_count": Whole(1, MAX_LAYERS),
    "context_length": Whole(1, MAX_COUNT),
    "embedding_length": Whole(1, 1 << 20),
    "feed_forward_length": Whole(0, 1 << 24, by_layer=True),
    "vocab_size": Whole(1, 1 << 22),
    "attention.head_count": Whole(0, 1 << 16, by_layer=True),
    "attention.head_count_kv": Whole(0, 1 << 16, by_layer=True),
    "attention.key_length": HEAD,
    "attention.value_length": HEAD,
    "attention.key_length_swa": HEAD,
    "attention.value_length_swa": HEAD,
    "attention.sliding_window": Whole(0, 1 << 20),
    "attention.layer_norm_rms_epsilon": EPSILON,
    "attention.layer_norm_epsilon": EPSILON,
    "attention.causal": Flag(),
    "rope.dimension_count": Whole(0, 1 << 16),
    "rope.dimension_count_swa": Whole(0, 1 << 16),
    "rope.freq_base": Real(0.0, math.inf, open=True),
    "rope.freq_base_swa": Real(0.0, math.inf, open=True),
    "rope.scaling.type": Text(("none", "linear", "yarn", "longrope")),
    "rope.scaling.factor": Real(0.0, math.inf),
    "rope.scaling.finetuned": Flag(),
    "rope.scaling.original_context_length": Whole(1, MAX_COUNT),
    "rope.scale_linear": Real(0.0, math.inf),
    "expert_count": Whole(0, MAX_EXPERTS),
    "expert_used_count": Whole(0, MAX_EXPERTS, by_layer=True),
    "expert_group_count": Whole(0, MAX_EXPERTS),
    "expert_group_used_count": Whole(0, MAX_EXPERTS),
    "expert_gating_func": Whole(1, 4),
    "expert_feed_forward_length": Whole(0, 1 << 24, by_layer=True),
    "expert_shared_feed_forward_length": Whole(0, 1 << 24),
    "expert_shared_count": Whole(0, MAX_EXPERTS),
    "expert_weights_norm": Flag(),
    "expert_weights_scale": Real(0.0, math.inf),
    "leading_dense_block_count": Whole(0, MAX_LAYERS),
    "attention.q_lora_rank": Whole(0, 1 << 20),
    "attention.kv_lora_rank": Whole(0, 1 << 20),
    "attention.key_length_mla": HEAD,
    "attention.value_length_mla": HEAD,
    "shortconv.l_cache": Whole(2, 1 << 10),
    "nextn_predict_layers": Whole(0, MAX_LAYERS),
    "decoder_block_count": Whole(1, MAX_LAYERS),
    # With fewer than 4, a table is read where it has no rows.
    "attention.relative_buckets_count": Whole(4, 1 << 12),
    "pooling_type": Whole(0, 4),
}
GENERAL_RULES: dict[str, Rule] = {
    "general.architecture": Text(),
    "general.name": Text(),
    "general.file_type": Whole(0, 1 << 16),
    "general.quantization_version": Whole(0, 1 << 16),
    "tokenizer.chat_template": Text(),
}

# Architectures whose graph asserts that keys, values and the rotated part of a head are equally
# long, and those in which the rotated part may be shorter (src/models of llama.cpp; assertions that
# are commented out there do not count).
EQUAL_HEADS = frozenset(
    {
        *("apertus", "arcee", "arctic", "baichuan", "chameleon", "codeshell", "cogvlm"),
        *("cohere2moe", "dbrx", "deci", "deepseek", "dots1", "dream", "ernie4_5", "ernie4_5-moe"),
        *("exaone", "exaone-moe", "exaone4", "falcon", "granite", "granite_swa", "granitemoe"),
        *("graniteswitch", "grok", "grovemoe", "hunyuan-dense", "hunyuan-moe", "hunyuan_vl"),
        *("hy_v3", "internlm2", "jais2", "llada", "llada-moe", "llama", "llama-embed", "llama4"),
        *("maincoder", "mellum", "mistral3", "olmo", "olmo2", "olmoe", "orion", "paddleocr"),
        *("pangu-embedded", "plamo", "pockettts", "qwen2", "qwen2moe", "qwen2vl", "qwen3"),
        *("qwen3moe", "qwen3vl", "qwen3vlmoe", "rnd1", "seed_oss", "smallthinker", "smollm3"),
        *("starcoder2", "talkie", "xverse"),
    }
)
# Those that go by the graph of BERT.
BERTS = frozenset({"bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe"})
EQUAL_KEYS_AND_VALUES = (
    EQUAL_HEADS
    | BERTS
    | {
        *("afmoe", "bailingmoe2", "bitnet", "bloom", "chatglm", "cohere2", "command-r", "gemma"),
        *("gemma2", "gemma3", "glm4", "glm4moe", "gpt2", "gptneox", "granitehybrid", "jais"),
        *("minimax-m2", "mpt", "nemotron", "openelm", "phi2", "phi3", "qwen", "refact", "stablelm"),
        *("starcoder", "lfm2", "lfm2moe", "modern-bert"),
    }
)
# Those whose matrix of queries is as wide as the model, however long the heads are said to be.
SQUARE = BERTS | frozenset(
    {
        *("arctic", "baichuan", "chameleon", "codeshell", "cohere2", "command-r", "deepseek"),
        *("dream", "internlm2", "lfm2", "lfm2moe", "llada-moe", "modern-bert", "nemotron"),
        *(
            "olmo",
            "olmo2",
            "olmoe",
            "orion",
            "phi2",
            "phi3",
            "phimoe",
            "plamo",
            "qwen2",
            "qwen2moe",
            "qwen2vl",
        ),
        *("stablelm", "starcoder2", "xverse"),
    }
)
# Those with one latent vector for keys and values of all heads.
LATENT = frozenset({"deepseek2", "deepseek32", "glm-dsa", "mistral4"})
# Architectures that only ever generate: without a causal mask llama.cpp asserts on long prompts.
CAUSAL = frozenset({"gemma2", "gemma3", "llama", "mistral3", "qwen3moe"})


def architecture_of(header: GGUFHeader) -> str | None:
    """Give general.architecture, or None where it is missing.

    Raises:
        CorruptFileError: it is not a short plain name.
    """
    key = "general.architecture"
    if key not in header.metadata:
        return None
    value = header.metadata[key]
    if not isinstance(value, str) or not 0 < len(value) <= 64:
        raise CorruptFileError(header.path, f"{key} is not a short name")
    if not all(c.isascii() and (c.isalnum() or c in "-_.") for c in value):
        raise CorruptFileError(header.path, f"{key} is {value!r}, not a plain name")
    return value


def check_parameters(header: GGUFHeader, *, strict: bool = True) -> None:
    """Check every hyper-parameter that is there; a missing one is left to llama.cpp.

    Unless `strict`, a whole number may be of any integer type, as some writers have it; llama.cpp
    would refuse it.

    Raises:
        CorruptFileError: a value is of a wrong type, out of range, or contradicts another.
    """
    architecture = architecture_of(header)
    for key, rule in GENERAL_RULES.items():
        _check(header, key, rule, strict=strict)
    if architecture is None:
        return
    prefix = architecture + "."
    for suffix, rule in ARCHITECTURE_RULES.items():
        _check(header, prefix + suffix, rule, strict=strict)
    for key in header.metadata:
        if key.startswith(prefix):
            _check_any(header, key)
    reader = _Parameters(header, prefix)
    reader.check_layers()
    reader.check_heads(architecture)
    if architecture in LATENT:
        reader.check_latent()
    if architecture == "jina-bert-v2":
        reader.check_gates()
    reader.check_windows()
    if architecture == "gemma-embedding":
        reader.check_dense()
    if architecture == "modern-bert" and reader.get("hidden_activation") == "relu":
        # The one word that it reads as a network without a gate, for which there are two halves.
        _fail(header, f"{prefix}hidden_activation is 'relu', for which the network has no form")
    reader.check_experts()
    if architecture in CAUSAL and reader.get("attention.causal") is False:
        _fail(header, f"{prefix}attention.causal is false in a model that generates text")


class _Parameters:
    """The checked values below one architecture's prefix."""

    def __init__(self, header: GGUFHeader, prefix: str) -> None:
        self.header = header
        self.prefix = prefix

    def get(self, suffix: str) -> object:
        return self.header.metadata.get(self.prefix + suffix)

    def number(self, suffix: str, default: int = 0) -> int:
        """Give a scalar, or the first layer's value of an array."""
        value = self.get(suffix)
        if isinstance(value, list):
            value = value[0] if value else None
        return int(value) if isinstance(value, int) else default

    def check_layers(self) -> None:
        """Arrays hold a value for each layer; some layers predict the next token."""
        layers = self.number("block_count")
        for suffix, rule in ARCHITECTURE_RULES.items():
            value = self.get(suffix)
            if isinstance(rule, Whole) and isinstance(value, list) and len(value) != layers:
                self._fail(f"{suffix} has {len(value)} values for {layers} layers")
        if layers and self.number("nextn_predict_layers") >= layers:
            self._fail(f"nextn_predict_layers leaves none of {layers} layers")

    def check_heads(self, architecture: str) -> None:
        """Heads share keys evenly; rotation takes an even part of a head."""
        for heads, shared in zip(
            self._layered("attention.head_count"),
            self._layered("attention.head_count_kv"),
            strict=False,
        ):
            if shared and heads % shared:
                self._fail(f"attention.head_count {heads} is no multiple of head_count_kv {shared}")
        heads = self.number("attention.head_count")
        size = self.number("embedding_length") // heads if heads else 0
        for end in ("", "_swa"):
            key = self.number("attention.key_length" + end, size)
            value = self.number("attention.value_length" + end, size)
            rotated = self.number("rope.dimension_count" + end, key)
            if heads and rotated % 2:
                self._fail(f"the rotated part of a head is {rotated} long, an odd number")
            if heads and key and not rotated:
                self._fail(f"rope.dimension_count{end} is 0")
            if heads and key and rotated > key:
                self._fail(f"rope.dimension_count{end} {rotated} is more than a head's {key}")
            if heads and architecture in EQUAL_KEYS_AND_VALUES and key != value:
                self._fail(f"key_length{end} {key} and value_length{end} {value} differ")
            if architecture in EQUAL_HEADS and rotated != key:
                self._fail(f"rope.dimension_count{end} {rotated} is not a head's {key}")

        key = self.number("attention.key_length", size)
        if heads and architecture in SQUARE and heads * key != self.number("embedding_length"):
            self._fail(f"attention.head_count {heads} heads of {key} are not embedding_length")

    def check_latent(self) -> None:
        """The cache holds the latent vector and the rotated part as one head's key."""
        heads = self.number("attention.head_count")
        size = self.number("embedding_length") // heads if heads else 0
        key = self.number("attention.key_length", size)
        value = self.number("attention.value_length", size)
        rotated = self.number("rope.dimension_count", key)
        whole = self.number("attention.key_length_mla")
        if (whole or key) <= rotated:
            self._fail(
                f"attention.key_length_mla {whole or key} is not more than {rotated} rotated"
            )
        if not whole or not self.number("attention.value_length_mla"):
            return  # an older layout, in which heads have keys of their own
        latent = self.number("attention.kv_lora_rank")
        if key != latent + rotated or value != latent:
            self._fail(
                f"attention.key_length {key} and value_length {value} are not those of a latent "
                f"vector of {latent} values, {rotated} rotated ones beside it"
            )
        for shared in self._layered("attention.head_count_kv"):
            if shared != 1:
                self._fail(f"attention.head_count_kv {shared} is not the 1 of latent attention")

    def check_gates(self) -> None:
        """A network's gate stands in a matrix of its own, or before the values in theirs."""
        feed = self.number("feed_forward_length")
        rows = {tensor.name: tensor.rows for tensor in self.header.tensors}
        for name, found in rows.items():
            if not name.endswith(".ffn_up.weight"):
                continue
            alone = name.replace(".ffn_up.", ".ffn_gate.") in rows
            if found != feed and (alone or found != 2 * feed):
                _fail(
                    self.header,
                    f"the tensor {name!r} has {found} rows, which do not go with "
                    f"{self.prefix}feed_forward_length {feed}",
                )

    def check_windows(self) -> None:
        """A pattern that gives no layer the window fails an assertion when the cache is made."""
        pattern = self.get("attention.sliding_window_pattern")
        if pattern is None:
            return
        if isinstance(pattern, list):
            used = any(pattern[: self.number("block_count", len(pattern))])
        else:
            used = pattern != 1  # each n-th layer sees all, and 0 stands for none of them
        if not used:
            self._fail("attention.sliding_window_pattern leaves no layer to the sliding window")

    def check_dense(self) -> None:
        """Two layers after pooling lead from the model's size to another and back, or none."""
        size = self.number("embedding_length")
        found = [
            self.number(f"dense_{layer}_feat_{end}") for layer in (2, 3) for end in ("in", "out")
        ]
        if any(found) and found != [size, found[1], found[1], size]:
            self._fail(f"dense_2_feat_in to dense_3_feat_out {found} do not lead to {size} values")
        names = {tensor.name for tensor in self.header.tensors}
        if len(names & {"dense_2.weight", "dense_3.weight"}) != 2 * bool(found[1]):
            self._fail(f"dense_2_feat_out {found[1]} and the tensors of dense layers differ")

    def check_experts(self) -> None:
        """No more experts or groups are used than there are."""
        experts = self.number("expert_count")
        used = max(self._layered("expert_used_count"), default=0)
        groups = self.number("expert_group_count")
        used_groups = self.number("expert_group_used_count")
        if used > experts or (experts and not used):
            self._fail(f"expert_used_count is {used} of {experts} experts")
        if groups and (groups >= experts or experts % groups):
            self._fail(f"expert_group_count {groups} does not divide {experts} experts")
        if groups > 1 and not 0 < used_groups < groups:
            self._fail(f"expert_group_used_count is {used_groups} of {groups} groups")

    def _layered(self, suffix: str) -> list[int]:
        """Give one value for each layer; none if the key is missing."""
        value = self.get(suffix)
        if isinstance(value, list):
            return [int(item) for item in value]
        layers = self.number("block_count", 1)
        return [int(value)] * layers if isinstance(value, int) else []

    def _fail(self, reason: str) -> NoReturn:
        _fail(self.header, self.prefix + reason)


def _check(header: GGUFHeader, key: str, rule: Rule, *, strict: bool) -> None:
    """Check one key against its rule, if it is there."""
    if key not in header.metadata:
        return
    kind = header.value_types[key]
    value = header.metadata[key]
    if isinstance(rule, Flag | Text):
        wanted = ValueType.BOOL if isinstance(rule, Flag) else ValueType.STRING
        if kind.kind != wanted:
            _fail(header, f"{key} is of type {kind}, not {wanted.name.lower()}")
        if isinstance(rule, Text) and rule.words and value not in rule.words:
            _fail(header, f"{key} is {str(value)[:40]!r}, not one of {', '.join(rule.words)}")
        return
    if isinstance(rule, Real):
        if kind.kind != ValueType.FLOAT32:
            _fail(header, f"{key} is of type {kind}, not float32")
        assert isinstance(value, float)
        low = value > rule.low if rule.open else value >= rule.low
        if not (math.isfinite(value) and low and value <= rule.high):
            _fail(header, f"{key} is {value}, out of its range")
        return
    for number in _whole(header, key, by_layer=rule.by_layer, strict=strict):
        if not rule.low <= number <= rule.high:
            _fail(header, f"{key} is {number}, not from {rule.low} to {rule.high}")


def _whole(header: GGUFHeader, key: str, *, by_layer: bool, strict: bool) -> Iterator[int]:
    kind = header.value_types[key]
    value = header.metadata[key]
    if kind.kind == ValueType.UINT32 or (kind.kind in INTEGERS and not strict):
        assert isinstance(value, int)
        yield value
    elif by_layer and kind.element in (ValueType.UINT32, ValueType.INT32):
        assert isinstance(value, list)
        if not 0 < len(value) <= MAX_LAYERS:
            _fail(header, f"{key} is an array of {len(value)} values")
        yield from (int(number) for number in value)
    else:
        _fail(header, f"{key} is of type {kind}, not uint32")


def _check_any(header: GGUFHeader, key: str) -> None:
    """Bound the numbers of keys that have no rule of their own, so that no size explodes."""
    kind = header.value_types[key].kind
    if kind in INTEGERS and not key.endswith("_id"):
        value = header.metadata[key]
        assert isinstance(value, int)
        if abs(value) > MAX_COUNT:
            _fail(header, f"{key} is {value}, more than {MAX_COUNT}")
    elif kind in (ValueType.FLOAT32, ValueType.FLOAT64):
        value = header.metadata[key]
        assert isinstance(value, float)
        if not math.isfinite(value):
            _fail(header, f"{key} is {value}, not a finite number")


def _fail(header: GGUFHeader, reason: str) -> NoReturn:
    raise CorruptFileError(header.path, reason)
