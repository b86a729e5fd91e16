"""The memory model against what llama.cpp says that it allocates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import tiny
from edgellm.backends.llama_cpp import library
from edgellm.device.memory import (
    CACHE_TYPES,
    Runtime,
    cache_bytes,
    cached_layers,
    compute_bytes,
    scores_batch,
    weight_budget,
)
from edgellm.errors import DoesNotFitError, UsageError
from edgellm_converters.checkpoints.gguf import read_header
from edgellm_converters.pipeline import convert

TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}


class Allocated:
    """What llama.cpp's log says of a model at a context, in bytes to a hundredth of a MiB."""

    def __init__(self, path: Path) -> None:
        self.native: Any = library.library()
        self.lines: list[str] = []
        # Kept: the library holds a bare pointer to it.
        self.callback = self.native.llama_log_callback(
            lambda _level, text, _data: self.lines.append((text or b"").decode())
        )
        self.native.llama_log_set(self.callback, None)
        params = self.native.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = self.native.llama_model_load_from_file(str(path).encode(), params)
        assert self.model, self.lines[-3:]

    def at(self, runtime: Runtime, scores: int | None = None) -> tuple[float, float]:
        self.lines.clear()
        params = self.native.llama_context_default_params()
        params.n_ctx = runtime.context
        params.n_ubatch = scores or runtime.batch
        params.flash_attn_type = 1 if scores is None else 0
        params.n_outputs_max = 1
        params.swa_full = runtime.whole
        params.type_k = params.type_v = TYPES[runtime.cache]
        context = self.native.llama_init_from_model(self.model, params)
        assert context, self.lines[-3:]
        self.native.llama_free(context)
        log = "".join(self.lines)

        def size(kind: str) -> float:
            found = re.findall(rf"{kind} buffer size = +([\d.]+) MiB", log)
            return sum(map(float, found)) * 2**20

        return size("KV") + size("RS"), size("compute") + size("output")

    def close(self) -> None:
        self.native.llama_model_free(self.model)
        library.quiet()


@pytest.fixture
def allocated() -> Iterator[Any]:
    opened: list[Allocated] = []

    def of(path: Path) -> Allocated:
        opened.append(Allocated(path))
        return opened[-1]

    yield of
    for each in opened:
        each.close()


@pytest.mark.parametrize(
    "name",
    ["llama", "llama-wide-heads", "gemma2", "gemma3", "qwen2", "deepseek-v2", "lfm2", "gpt2"],
)
def test_the_cache_is_what_llama_cpp_allocates(name: str, tmp_path: Path, allocated: Any) -> None:
    path = tmp_path / "model.gguf"
    convert(tiny.MODELS[name](tmp_path / "hf"), path)
    layers = cached_layers(read_header(path).metadata)
    assert layers
    model = allocated(path)
    for runtime in (Runtime(512), Runtime(4000, batch=64, whole=False)):
        found, _ = model.at(runtime)
        # the log has a hundredth of a MiB for each buffer
        assert cache_bytes(layers, runtime) == pytest.approx(found, abs=0.021 * 2**20)


@pytest.mark.parametrize("cache", TYPES)
def test_a_cache_of_blocks_takes_fewer_bytes(cache: str, tmp_path: Path, allocated: Any) -> None:
    path = tmp_path / "model.gguf"
    convert(tiny.MODELS["llama-wide-heads"](tmp_path / "hf"), path)
    runtime = Runtime(32768, cache)
    layers = cached_layers(read_header(path).metadata)
    assert layers
    found, _ = allocated(path).at(runtime)
    assert cache_bytes(layers, runtime) == pytest.approx(found, abs=0.011 * 2**20)
    assert CACHE_TYPES.keys() > TYPES.keys()


def shaped(path: Path, experts: int = 0) -> Path:
    """Write the header of a model with holes in place of its weights: 4 layers of 512."""
    width, inner, heads, heads_kv, size, vocabulary = 512, 1536, 8, 2, 64, 4096
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(4)
    writer.add_context_length(8192)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads_kv)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(size)
    writer.add_vocab_size(vocabulary)
    writer.add_string("tokenizer.ggml.model", "no_vocab")
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(experts // 2)
    end = 0

    def tensor(name: str, *shape: int) -> None:
        nonlocal end
        dtype = np.dtype(np.float32 if len(shape) == 1 else np.float16)
        nbytes = int(np.prod(shape)) * dtype.itemsize
        writer.add_tensor_info(f"{name}.weight", shape, dtype, nbytes)
        end += -(-nbytes // 32) * 32

    tensor("token_embd", vocabulary, width)
    tensor("output_norm", width)
    for at in range(4):
        layer = f"blk.{at}."
        tensor(layer + "attn_norm", width)
        tensor(layer + "attn_q", heads * size, width)
        tensor(layer + "attn_k", heads_kv * size, width)
        tensor(layer + "attn_v", heads_kv * size, width)
        tensor(layer + "attn_output", width, heads * size)
        tensor(layer + "ffn_norm", width)
        if experts:
            tensor(layer + "ffn_gate_inp", experts, width)
        stack = (experts,) if experts else ()
        suffix = "_exps" if experts else ""
        tensor(f"{layer}ffn_gate{suffix}", *stack, inner, width)
        tensor(f"{layer}ffn_up{suffix}", *stack, inner, width)
        tensor(f"{layer}ffn_down{suffix}", *stack, width, inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        start = -(-path.stat().st_size // 32) * 32
        file.truncate(start + end)
    return path


@pytest.mark.parametrize("experts", [0, 8])
def test_buffers_are_estimated_within_a_few_per_cent(
    experts: int, tmp_path: Path, allocated: Any
) -> None:
    path = shaped(tmp_path / "model.gguf", experts)
    metadata = read_header(path).metadata
    model = allocated(path)
    for runtime in (
        Runtime(2048),
        Runtime(8192),
        Runtime(2048, batch=64),
        Runtime(2048, offloaded=True),
        Runtime(8192, offloaded=True),
        Runtime(2048, batch=128, offloaded=True),
    ):
        scores = scores_batch(64, 8, runtime)
        assert (scores is None) == runtime.offloaded
        _, found = model.at(runtime, scores)
        estimate = compute_bytes(metadata, runtime)
        assert estimate is not None
        assert 0.99 * found < estimate < 1.05 * found


SMOL = {
    "general.architecture": "llama",
    "llama.block_count": 30,
    "llama.embedding_length": 576,
    "llama.feed_forward_length": 1536,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.vocab_size": 49152,
}


def test_what_is_left_for_weights() -> None:
    runtime = Runtime(8192)
    # llama.cpp: 180.00 MiB of keys and values, 21.70 MiB of buffers; 38 MiB and 210 bytes a token
    left = weight_budget(2**30, SMOL, replace(runtime, offloaded=True))
    other = 2**30 - left - 180 * 2**20 - 38 * 2**20 - 210 * 49152
    assert other == pytest.approx(21.7 * 2**20, rel=0.01)
    assert weight_budget(2**30, SMOL, Runtime(8192, "q8_0")) - left == 180 * 2**20 * 15 // 32
    with pytest.raises(DoesNotFitError, match=f"a pi leaves {100 * 2**20} bytes .* at 8192 tokens"):
        weight_budget(100 * 2**20, SMOL, runtime, "a pi")
    with pytest.raises(UsageError, match="do not tell"):
        weight_budget(2**30, {"general.architecture": "llama"}, runtime)


def test_narrow_heads_on_a_processor_keep_their_scores_while_these_are_small() -> None:
    assert scores_batch(64, 9, Runtime(8192)) == 128
    assert scores_batch(64, 9, Runtime(8192, batch=32)) == 32
    assert scores_batch(64, 32, Runtime(8192)) == 128  # 2^7 * 2^13 * 2^5 * 4 bytes
    for head, heads, runtime in (
        (64, 32, Runtime(8193)),
        (128, 8, Runtime(4096)),
        (0, 0, Runtime(4096)),
        (64, 9, Runtime(4096, offloaded=True)),
        (64, 9, Runtime(4096, "q8_0")),
    ):
        assert scores_batch(head, heads, runtime) is None


def test_hostile_numbers_give_no_estimate() -> None:
    for key, value in (
        ("llama.block_count", 2**31 - 1),
        ("llama.block_count", -1),
        ("llama.attention.head_count", 0),
        ("llama.embedding_length", "wide"),
    ):
        assert cached_layers(SMOL | {key: value}) is None
    with pytest.raises(UsageError, match="no cache has the type"):
        Runtime(512, "q3_k")
    with pytest.raises(UsageError, match="a context of 0 tokens"):
        Runtime(0)
