"""Bytes from what people say, and formats from bytes."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

import tiny
from edgellm.device.memory import Runtime
from edgellm.errors import DoesNotFitError, UsageError
from edgellm.quantization.budget import (
    Losses,
    choose,
    choose_within,
    compensated,
    from_bits,
    from_bpw,
    from_fit,
    from_size,
    largest_recipe,
    losses_of,
    measured_in,
    next_limit,
)
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.pipeline import convert
from edgellm_quant.facts import ModelFacts, TensorFacts
from edgellm_quant.formats import FORMATS, MLXFormat
from edgellm_quant.statistics import RowStatistics, TensorStatistics

Q = {name: FORMATS[name] for name in ("Q4_0", "Q5_0", "Q8_0")}

TENSORS = (
    TensorFacts("token_embd.weight", (64, 32)),
    TensorFacts("blk.0.attn_norm.weight", (32,)),
    TensorFacts("blk.0.ffn_down.weight", (32, 64)),
)
ERRORS = {
    "token_embd.weight": {Q["Q4_0"]: 0.01, Q["Q5_0"]: 0.002, Q["Q8_0"]: 0.0},
    "blk.0.ffn_down.weight": {Q["Q4_0"]: 0.01, Q["Q5_0"]: 0.002, Q["Q8_0"]: 0.0},
}
LOSSES = Losses(TENSORS, ERRORS, {"token_embd.weight": 1.0, "blk.0.ffn_down.weight": 10.0})
# 64 blocks of 32 values in either matrix, and 32 floats
SIZES = {"Q4_0": 64 * 18, "Q5_0": 64 * 22, "Q8_0": 64 * 34}
NORM = 128


def test_bytes_go_where_they_save_most() -> None:
    found = choose(LOSSES, NORM + SIZES["Q4_0"] + SIZES["Q8_0"])
    assert found.formats == {
        "token_embd.weight": FORMATS["Q4_0"],
        "blk.0.attn_norm.weight": FORMATS["F32"],
        "blk.0.ffn_down.weight": FORMATS["Q8_0"],
    }
    assert found.nbytes == NORM + SIZES["Q4_0"] + SIZES["Q8_0"]
    assert found.kld == pytest.approx(0.01)
    assert found.gap == 0
    assert not found.notes


def test_compensation_counts_where_inputs_are_known_and_a_measurement_as_it_is() -> None:
    found = compensated(LOSSES, 0.5, ["blk.0.ffn_down.weight"])
    assert found.errors["blk.0.ffn_down.weight"] == {
        Q["Q4_0"]: 0.005,
        Q["Q5_0"]: 0.001,
        Q["Q8_0"]: 0,
    }
    assert found.errors["token_embd.weight"] == ERRORS["token_embd.weight"]
    klds = {"token_embd.weight": {Q["Q4_0"]: 0.4, Q["Q8_0"]: 0.1}}
    best = choose(measured_in(LOSSES, klds), NORM + SIZES["Q4_0"] + SIZES["Q8_0"])
    assert best.formats["token_embd.weight"] == Q["Q8_0"]
    assert best.kld == pytest.approx(0.1 + 10 * 0.01)


def test_the_largest_recipe_that_fits() -> None:
    model = ModelFacts("llama", 1, 1, 1)
    # A tied embedding of rows of 32 values falls back to Q8_0 in every recipe.
    found = largest_recipe(LOSSES, NORM + SIZES["Q8_0"] + SIZES["Q4_0"] + 10, model)
    assert found is not None
    assert found.nbytes == NORM + SIZES["Q8_0"] + SIZES["Q4_0"]
    whole = largest_recipe(LOSSES, 10**9, model)
    assert whole is not None
    assert whole.nbytes == NORM + 2 * SIZES["Q8_0"]
    assert largest_recipe(LOSSES, 100, model) is None


def test_the_smallest_file_within_a_divergence() -> None:
    # every pair by hand: the cheapest of those below the limit
    for limit in (0.003, 0.011, 0.022, 0.03, 0.1102):
        found = choose_within(LOSSES, limit)
        allowed = [
            SIZES[one.name] + SIZES[two.name]
            for one, two in itertools.product(Q.values(), repeat=2)
            if ERRORS["token_embd.weight"][one] + 10 * ERRORS["blk.0.ffn_down.weight"][two]
            <= limit * (1 + 1e-9)
        ]
        assert found.nbytes == NORM + min(allowed)
        assert found.kld <= limit * (1 + 1e-9)


def test_too_few_bytes_name_both_sizes_and_too_many_are_noted() -> None:
    least = NORM + 2 * SIZES["Q4_0"]
    with pytest.raises(DoesNotFitError, match=rf"is 2000 bytes .* formats take {least}"):
        choose(LOSSES, 2000)
    found = choose(LOSSES, 10_000)
    assert found.kld == 0
    assert found.notes == (
        f"{10_000 - NORM - 2 * SIZES['Q8_0']} of 10000 bytes are left: every tensor has the best "
        "format (Q8_0)",
    )
    lossy = Losses(TENSORS, {"token_embd.weight": {Q["Q4_0"]: 0.5}}, {"token_embd.weight": 1.0})
    with pytest.raises(DoesNotFitError, match=r"0\.1 nats .* predicted to have 0\.5"):
        choose_within(lossy, 0.1)
    for limit in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="is no limit"):
            choose_within(LOSSES, limit)


@pytest.mark.parametrize(("bits", "recipe"), [(2, "Q2_K"), (4, "Q4_K_M"), (8, "Q8_0")])
def test_bits_are_the_bytes_of_the_named_recipe(bits: int, recipe: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    convert(tiny.MODELS["llama"](tmp_path / "hf"), tmp_path / "f16.gguf", dtype="f16")
    convert(tmp_path / "f16.gguf", path, recipe=recipe)
    with GGUFCheckpoint(tmp_path / "f16.gguf") as source, GGUFCheckpoint(path) as written:
        facts = [
            TensorFacts(name, source.info(name).shape, source.info(name).format.name)
            for name in source.names
        ]
        metadata = source.header.metadata
        model = ModelFacts(
            "llama",
            *(
                int(str(metadata[f"llama.{key}"]))
                for key in ("block_count", "attention.head_count", "attention.head_count_kv")
            ),
        )
        offsets = [written.info(name).offset for name in written.names]
        assert from_bits(bits, facts, model) == path.stat().st_size - min(offsets)
        with pytest.raises(UsageError, match="9 bits are not offered"):
            from_bits(9, facts, model)


def test_sizes_count_what_is_no_tensor() -> None:
    assert from_size(1000, 100) == 900
    with pytest.raises(DoesNotFitError, match=r"of 100 bytes is asked for, .* takes 100"):
        from_size(100, 100)
    weights = 64 * 32 * 2 + 32
    assert from_bpw(4.5, TENSORS, 10) == int(weights * 4.5 / 8) - 10
    for value in (0.0, -1.0, 65.0, float("nan")):
        with pytest.raises(UsageError, match="out of range"):
            from_bpw(value, TENSORS)


def test_a_device_has_room_for_what_cache_and_buffers_leave() -> None:
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 30,
        "llama.embedding_length": 576,
        "llama.feed_forward_length": 1536,
        "llama.attention.head_count": 9,
        "llama.attention.head_count_kv": 3,
        "llama.vocab_size": 49152,
    }
    long, short = (from_fit("rpi5-8gb", metadata, Runtime(tokens)) for tokens in (8192, 2048))
    # 22.5 KiB of cache a token, scores of 9 heads for 128 rows, and a mask, in four bytes
    assert short - long == 6144 * (30 * 3 * 64 * 2 * 2 + 128 * (9 + 1) * 4)
    assert from_fit("laptop-16gb", metadata, Runtime(8192)) - long == 5 * 2**30
    with pytest.raises(DoesNotFitError, match="rpi5-8gb leaves"):
        from_fit("rpi5-8gb", metadata, Runtime(2**20))


def test_losses_of_a_file_fall_with_bits(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    convert(tiny.MODELS["llama"](tmp_path / "hf"), path, dtype="f16")
    name = "blk.0.ffn_down.weight"
    with GGUFCheckpoint(path) as checkpoint:
        info = checkpoint.info(name)
    importance = np.random.default_rng(0).uniform(0.1, 2, info.columns).astype(np.float32)
    group = RowStatistics(0, info.rows, 100, importance)
    seen: list[tuple[int, int]] = []
    losses = losses_of(
        path,
        {name: TensorStatistics(info.columns, (group,))},
        progress=lambda *at: seen.append(at),
    )
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1] == len(losses.errors)
    assert "blk.0.attn_norm.weight" not in losses.errors
    for errors in losses.errors.values():
        assert errors[FORMATS["Q8_0"]] < 1e-4 < errors[FORMATS["Q5_0"]] < errors[FORMATS["Q4_0"]]
        assert 0.003 < errors[FORMATS["IQ4_NL"]] < 0.01
    rough = choose(losses, from_bpw(4.8, losses.tensors))
    fine = choose(losses, from_bpw(7.0, losses.tensors))
    assert rough.nbytes < fine.nbytes
    assert rough.kld > fine.kld > 0
    assert len(set(fine.formats.values())) > 2


def test_a_folder_of_mlx_has_its_own_formats(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    convert(tiny.MODELS["llama"](tmp_path / "hf"), path, dtype="f16")
    losses = losses_of(path, {}, mlx="BF16")
    found = choose(losses, from_bpw(5.0, losses.tensors))
    assert found.formats["blk.0.attn_norm.weight"] == FORMATS["BF16"]
    formats = {fmt for name, fmt in found.formats.items() if name in losses.errors}
    assert all(isinstance(fmt, MLXFormat) for fmt in formats)
    assert found.nbytes == sum(
        math.prod(each.shape[:-1]) * found.formats[each.name].row_bytes(each.shape[-1])
        for each in losses.tensors
    )


def test_the_search_for_a_measured_divergence_converges() -> None:
    # what is measured is not what is predicted, and not in proportion either
    tried: list[tuple[float, float]] = []
    limit = 0.02
    while (prediction := next_limit(limit, tried)) is not None:
        tried.append((prediction, 0.6 * prediction**0.85))
        assert len(tried) < 8
    assert 0.95 * limit <= tried[-1][1] <= limit
    # far away: a step at most
    assert next_limit(0.01, [(0.01, 10.0)]) == 0.0025
