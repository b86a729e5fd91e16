"""What is read for a token, against sums done by hand."""

from __future__ import annotations

import pytest

from edgellm.device.bandwidth import Bandwidth
from edgellm.device.fit import Needs
from edgellm.device.speed import (
    LAYER,
    cache_read,
    expected_speed,
    tokens_per_second,
    weights_read,
)

DENSE = {
    "general.architecture": "gemma3",
    "gemma3.block_count": 6,
    "gemma3.embedding_length": 64,
    "gemma3.attention.head_count": 4,
    "gemma3.attention.head_count_kv": 1,
    "gemma3.attention.key_length": 32,
    "gemma3.attention.value_length": 32,
    "gemma3.attention.sliding_window": 512,
}


def test_embeddings_are_read_only_where_they_give_the_logits() -> None:
    tied = {"token_embd.weight": 1000, "blk.0.ffn_up.weight": 50, "output_norm.weight": 2}
    assert weights_read(Needs(DENSE, tied)) == 1052
    untied = tied | {"output.weight": 700, "position_embd.weight": 400}
    assert weights_read(Needs(DENSE, untied)) == 752
    # an output matrix of attention makes nothing untied
    assert weights_read(Needs(DENSE, tied | {"blk.0.attn_output.weight": 10})) == 1062
    folder = {"model.embed_tokens.weight": 1000, "lm_head.weight": 700, "model.norm.weight": 2}
    assert weights_read(Needs(DENSE, folder)) == 702


def test_of_experts_the_used_ones_are_read() -> None:
    metadata = DENSE | {"gemma3.expert_count": 8, "gemma3.expert_used_count": 2}
    tensors = {"blk.0.ffn_up_exps.weight": 800, "blk.0.ffn_up_shexp.weight": 30}
    assert weights_read(Needs(metadata, tensors | {"output.weight": 5})) == 235


def test_of_the_cache_each_layer_reads_what_it_sees() -> None:
    needs = Needs(DENSE, {})
    # every sixth layer sees all; a token has 32 keys and 32 values of 2 bytes
    assert cache_read(needs, 2048) == 128 * (5 * 512 + 2048)
    assert cache_read(needs, 100) == 128 * 6 * 100
    assert cache_read(needs, 100, "q8_0") == 68 * 6 * 100
    assert cache_read(needs, 0) == 0


def test_speed_is_bytes_by_what_is_read_a_second_and_waiting_in_layers() -> None:
    assert tokens_per_second(10**9, 2e10) == pytest.approx(20)
    assert tokens_per_second(10**9, 2e10, layers=2000) == pytest.approx(10)
    needs = Needs(DENSE, {"blk.0.ffn_up.weight": 120 * 10**6})
    # 12 ms, and 6 layers
    measured = Bandwidth(9e9, 2, 0, "", 0, busy=False, kernel=((1, 1e10),))
    assert expected_speed(needs, 0, measured) == pytest.approx(1 / (0.012 + 6 * LAYER))
    unmeasured = Bandwidth(2e10, 2, 0, "", 0, busy=False)
    assert expected_speed(needs, 0, unmeasured) == pytest.approx(1 / (0.01 + 6 * LAYER))


def test_kernels_are_interpolated_between_the_measured_sizes() -> None:
    points = ((1000, 8.0), (2000, 6.0), (4000, 2.0))
    found = Bandwidth(1.0, 2, 0, "", 0, busy=False, kernel=points)
    for size, rate in ((10, 8), (1000, 8), (1414, 7), (2000, 6), (2828, 4), (4000, 2), (10**9, 2)):
        assert found.kernel_at(size) == pytest.approx(rate, rel=1e-3)


def test_heads_that_share_keys_go_over_them_one_by_one() -> None:
    needs = Needs(DENSE, {"output.weight": 1000})
    measured = Bandwidth(1e9, 2, 2**28, "cpu", 0.0, False, ((2**25, 1e6),))
    wanted = 1 / ((1000 + 4 * cache_read(needs, 100)) / 1e6 + 6 * LAYER)
    assert expected_speed(needs, 100, measured) == pytest.approx(wanted)
