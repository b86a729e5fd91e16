"""Repacking between ggml's blocks and MLX's rows, against ggml's own decoder."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgellm_quant import ggml, mlx
from edgellm_quant.affine import UNPACKERS
from edgellm_quant.bitstream import pack_codes
from edgellm_quant.errors import ShapeError, UnknownTypeError, ValueRangeError
from edgellm_quant.formats import FORMATS
from edgellm_quant.formats.mlx import AFFINE_BITS, AFFINE_GROUPS, MLXFormat, join_rows, split_rows
from edgellm_quant.repack import (
    TO_GGUF,
    TO_MLX,
    best_target,
    repack_kind,
    repack_rows,
    try_repack,
)

EXACT = [name for name, route in TO_MLX.items() if route.kind == "exact"]
NEAR = [name for name, route in TO_MLX.items() if route.kind == "near"]
AFFINE = [name for name, route in TO_MLX.items() if route.mode == "affine" and name in UNPACKERS]
# Where the float16 numbers of a block begin.
HALVES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "TQ2_0": (64,)}
MXFP4, NVFP4 = MLXFormat("mxfp4", 4, 32, "U8"), MLXFormat("nvfp4", 4, 16, "U8")


def affine(bits, group_size=32, scale="F16"):
    return MLXFormat("affine", bits, group_size, scale)


def random(rows=5, columns=512, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32)


def random_blocks(name, scales, rows=6, columns=512):
    """Give blocks of random bytes whose float16 scales are drawn from `scales`."""
    fmt = FORMATS[name]
    source = np.random.default_rng(7)
    blocks = source.integers(0, 256, (rows, columns // fmt.block_size, fmt.type_size), np.uint8)
    if name == "TQ2_0":  # two bits of 3 are no ternary digit
        blocks[..., :64] &= blocks[..., :64] >> 1 & 0x55 ^ 0xFF
    for at in HALVES.get(name, (0,)):
        drawn = source.choice(np.array(scales, "<f2"), blocks.shape[:2])
        blocks[..., at : at + 2] = drawn[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)


def decode(rows, fmt, columns):
    codec = mlx if isinstance(fmt, MLXFormat) else ggml
    return codec.dequantize_rows(rows, fmt, columns)


@pytest.mark.parametrize("name", EXACT)
def test_the_values_of_encoded_rows_stay(name):
    source = FORMATS[name]
    target, kind = best_target(source)
    assert kind == "exact"
    blocks = ggml.quantize_rows(random(), source)
    rows, error = repack_rows(blocks, source, target, 512)
    assert error == 0
    assert np.array_equal(decode(rows, target, 512), decode(blocks, source, 512))
    # and back, where the way back leads to the same format or one with a bias
    there, _ = best_target(target)
    if repack_kind(target, source) in ("exact", "near", "requantized"):
        back, kept, _ = try_repack(rows, target, source, 512)
        assert kept.all()
        assert np.array_equal(back, blocks)
    elif repack_kind(target, there) != "requantized":
        back, error = repack_rows(rows, target, there, 512)
        assert error == 0
        assert np.array_equal(decode(back, there, 512), decode(blocks, source, 512))


# float16: subnormal, least normal, ordinary, the largest whose multiples by 128 are finite
SCALES = [6e-8, -6e-8, 1.2e-7, 6.1e-5, 0, -0.0, 0.0123, -1.7, 511.5, -511.5]


@pytest.mark.parametrize("name", [name for name in AFFINE if name in EXACT])
@pytest.mark.parametrize("scale", ["F16", "F32"])
def test_any_block_stays_exact(name, scale):
    source = FORMATS[name]
    target, _ = best_target(source, scale)
    blocks = random_blocks(name, SCALES)
    rows, error = repack_rows(blocks, source, target, 512)
    assert error == 0
    assert np.array_equal(decode(rows, target, 512), decode(blocks, source, 512))


@pytest.mark.parametrize("name", NEAR)
def test_products_of_scales_are_exact_in_float32_and_near_in_float16(name):
    source = FORMATS[name]
    blocks = random_blocks(name, [0.0123, -1.7, 0.00057, 0])
    wanted = decode(blocks, source, 512)
    wide, kind = best_target(source, "F32")
    assert kind == "exact"
    rows, error = repack_rows(blocks, source, wide, 512)
    assert error == 0
    assert np.array_equal(decode(rows, wide, 512), wanted)
    blocks = ggml.quantize_rows(random(), source)
    wanted = decode(blocks, source, 512)
    # Biases are up to three times the deviation of the values; float16 has 11 bits, bfloat16 8.
    for scale, limit in (("F16", 3 * 2**-12), ("BF16", 3 * 2**-9)):
        target, kind = best_target(source, scale)
        assert kind == "near"
        rows, error = repack_rows(blocks, source, target, 512)
        difference = decode(rows, target, 512) - wanted
        assert error == np.abs(difference).max() > 0
        assert np.sqrt((difference**2).mean() / (wanted**2).mean()) < limit


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("bad", [0x7E00, 0x7FFF, 0xFFFF, 0x7C00, 0xFC00])  # NaNs, infinities
@pytest.mark.parametrize("scale", ["F16", "BF16", "F32"])
def test_scales_that_are_no_numbers_are_refused(name, bad, scale):
    source = FORMATS[name]
    target, _ = best_target(source, scale)
    blocks = random_blocks(name, [1.0])
    at = HALVES.get(name, (0,))[-1] + (len(blocks[0]) - source.type_size)  # of the last block
    blocks[3, at : at + 2] = np.array([bad], "<u2").view(np.uint8)
    with pytest.raises(ValueRangeError, match=f"row 3 of {name} has scales .* {target.name}"):
        repack_rows(blocks, source, target, 512, threads=1)


@pytest.mark.parametrize(("name", "scale"), [("Q4_0", 8200), ("Q5_0", 4200), ("Q8_0", 513)])
def test_a_bias_beyond_float16_is_refused_and_fits_float32(name, scale):
    source = FORMATS[name]
    blocks = random_blocks(name, [scale])
    with pytest.raises(ValueRangeError, match="cannot hold") as caught:
        repack_rows(blocks, source, best_target(source)[0], 512)
    assert "wider type" in caught.value.hint
    target, _ = best_target(source, "F32")
    rows, error = repack_rows(blocks, source, target, 512)
    assert error == 0
    assert np.array_equal(decode(rows, target, 512), decode(blocks, source, 512))


def test_longer_codes_and_shorter_groups_hold_the_values_too():
    source = FORMATS["TQ2_0"]
    blocks = ggml.quantize_rows(random(), source)
    for bits, group_size in itertools.product(AFFINE_BITS, AFFINE_GROUPS):
        rows, error = repack_rows(blocks, source, affine(bits, group_size), 512)
        assert error == 0
        found = decode(rows, affine(bits, group_size), 512)
        assert np.array_equal(found, decode(blocks, source, 512))
    assert repack_kind(FORMATS["Q4_0"], affine(4, 64)) is None  # two scales in a group
    assert repack_kind(FORMATS["Q5_0"], affine(4)) is None


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
@pytest.mark.parametrize("group_size", AFFINE_GROUPS)
def test_mlx_with_float16_scales_goes_to_blocks_with_a_bias_exactly(bits, group_size):
    source = affine(bits, group_size)
    target, kind = best_target(source)
    assert (target.name, kind) == ("Q5_1" if bits == 5 else "Q4_1", "exact")
    x = random() * np.logspace(-6, 3, 5, dtype=np.float32)[:, None]
    rows = mlx.quantize_rows(x, source)
    blocks, error = repack_rows(rows, source, target, 512)
    assert error == 0
    assert np.array_equal(decode(blocks, target, 512), decode(rows, source, 512))


@pytest.mark.parametrize("scale", ["BF16", "F32"])
def test_scales_that_float16_cannot_hold_are_near_or_refused(scale):
    source, target = affine(4, 64, scale), FORMATS["Q4_1"]
    assert best_target(source) == (target, "near")
    rows = mlx.quantize_rows(random(), source)
    blocks, error = repack_rows(rows, source, target, 512)
    # bfloat16 has fewer bits than float16: only its very small and large numbers do not fit
    assert (error == 0) == (scale == "BF16")
    assert error == np.abs(decode(blocks, target, 512) - decode(rows, source, 512)).max() < 3e-3
    tiny = mlx.quantize_rows(random() * np.float32(1e-6), source)
    blocks, error = repack_rows(tiny, source, target, 512)
    assert error == np.abs(decode(blocks, target, 512) - decode(tiny, source, 512)).max() > 0
    with pytest.raises(ValueRangeError, match="row 0 of MLX4G64"):
        repack_rows(mlx.quantize_rows(random() * np.float32(1e6), source), source, target, 512)


def test_six_bits_go_to_q8_0_nearly():
    source, target = affine(6, 64), FORMATS["Q8_0"]
    assert best_target(source) == (target, "near")
    x = random(64)
    rows = mlx.quantize_rows(x, source)
    wanted = decode(rows, source, 512)
    blocks, kept, error = try_repack(rows, source, target, 512)
    assert kept.all()
    difference = np.abs(decode(blocks, target, 512) - wanted)
    assert error == difference.max()
    anew = np.abs(decode(ggml.quantize_rows(wanted, target), target, 512) - wanted)
    assert (difference**2).mean() < (anew**2).mean() / 4


def test_six_bits_with_a_whole_zero_go_to_q8_0_exactly():
    source, target = affine(6), FORMATS["Q8_0"]
    codes = np.arange(64, dtype=np.uint8).reshape(1, 64)
    words = pack_codes(codes, 6).view("<u4")
    scales = np.array([[0.25, -0.5]], np.float16)
    rows = join_rows(words, scales, scales * np.float16(-31), source, 64)
    blocks, error = repack_rows(rows, source, target, 64)
    assert error == 0
    wanted = np.repeat([0.25, -0.5], 32) * (np.arange(64) - 31)
    assert np.array_equal(decode(blocks, target, 64)[0], wanted)


def test_eight_bits_go_to_q8_0_where_the_values_allow():
    source, target = affine(8), FORMATS["Q8_0"]
    assert best_target(source) == (target, "requantized")
    blocks = ggml.quantize_rows(random(2), target)
    rows, _ = repack_rows(blocks, target, source, 512)
    mixed = np.concatenate([rows, mlx.quantize_rows(random(2, seed=1), source)])
    back, kept, error = try_repack(mixed, source, target, 512)
    assert kept.tolist() == [True, True, False, False]
    assert error == 0
    assert np.array_equal(back[:2], blocks)
    # a bias without a scale has no zero
    arrays = split_rows(rows, source, 512)
    arrays[1][0, 3] = 0
    _, kept, _ = try_repack(join_rows(*arrays, source, 512), source, target, 512)
    assert kept.tolist() == [False, True]


@pytest.mark.parametrize(("name", "target"), [("MXFP4", MXFP4), ("NVFP4", NVFP4)])
def test_floating_point_codes_move_both_ways(name, target):
    source = FORMATS[name]
    assert best_target(source) == (target, "exact")
    assert best_target(target) == (source, "exact")
    count = source.type_size - source.block_size // 2  # scales come first
    blocks = np.random.default_rng(3).integers(0, 256, (4, 8, source.type_size), np.uint8)
    blocks[..., :count] = np.minimum(blocks[..., :count], 250 if name == "MXFP4" else 126)
    blocks = blocks.reshape(4, -1)
    columns = 8 * source.block_size
    rows, error = repack_rows(blocks, source, target, columns)
    assert error == 0
    assert np.array_equal(decode(rows, target, columns), decode(blocks, source, columns))
    back, error = repack_rows(rows, target, source, columns)
    assert error == 0
    assert np.array_equal(back, blocks)
    blocks[2, source.type_size] = 255
    with pytest.raises(ValueRangeError, match="row 2 has a scale of 0xff"):
        repack_rows(blocks, source, target, columns, threads=1)
    codes, scales, _ = split_rows(rows, target, columns)
    scales[1, 5] = 255
    bad = join_rows(codes, scales, None, target, columns)
    with pytest.raises(ValueRangeError, match="row 1 has a scale of 0xff"):
        repack_rows(bad, target, source, columns, threads=1)


def test_pairs_without_a_way_are_refused():
    pairs = [("Q6_K", affine(8)), ("Q2_K", affine(8)), ("F16", affine(8)), ("MXFP4", affine(8))]
    for name, target in pairs:
        assert repack_kind(FORMATS[name], target) is None
        blocks = np.zeros((1, FORMATS[name].row_bytes(512)), np.uint8)
        with pytest.raises(UnknownTypeError, match=f"{name} cannot be repacked"):
            repack_rows(blocks, FORMATS[name], target, 512)
    assert repack_kind(FORMATS["Q4_0"], FORMATS["Q4_1"]) is None
    assert repack_kind(MXFP4, MXFP4) is None
    assert repack_kind(affine(8), FORMATS["Q4_1"]) is None
    assert repack_kind(MXFP4, FORMATS["Q4_1"]) is None
    assert best_target(FORMATS["Q2_K"]) is None
    assert best_target(FORMATS["F16"]) is None
    assert best_target(MLXFormat("mxfp8", 8, 32, "U8")) is None
    assert best_target(FORMATS["Q6_K"]) == (affine(8), "requantized")
    with pytest.raises(ShapeError, match="contiguous uint8"):
        repack_rows(np.zeros((1, 17), np.uint8), FORMATS["Q4_0"], affine(4), 32)


def test_the_tables_name_formats_that_are():
    for name in TO_MLX:
        target, kind = best_target(FORMATS[name])
        assert kind == TO_MLX[name].kind
        assert target.holds(512)
    for (mode, bits), (name, kind) in TO_GGUF.items():
        for scale in ("F16",) if mode == "affine" else ("U8",):
            group_size = {"affine": 64, "mxfp4": 32, "nvfp4": 16}[mode]
            source = MLXFormat(mode, bits, group_size, scale)
            assert best_target(source) == (FORMATS[name], kind)


@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "MXFP4"])
def test_rows_do_not_depend_on_threads_or_slabs(name):
    source = FORMATS[name]
    target, _ = best_target(source)
    blocks = ggml.quantize_rows(random(300), source)
    one, error = repack_rows(blocks, source, target, 512, threads=1)
    many, same = repack_rows(blocks, source, target, 512, threads=4)
    assert np.array_equal(one, many)
    assert error == same
    slabs = [repack_rows(blocks[at : at + 77], source, target, 512) for at in range(0, 300, 77)]
    assert np.array_equal(one, np.concatenate([rows for rows, _ in slabs]))
    assert error == max(each for _, each in slabs)
