"""Folders that are quantized already: decoded to the very values, or refused with a way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
import tiny_quantized as quantized
from edgellm.cli.main import run
from edgellm_converters import errors, streams
from edgellm_converters.checkpoints.float8 import FLOAT8
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.checkpoints.packed import GPTQWeight, Pieces
from edgellm_converters.checkpoints.safetensors import SafetensorInfo, SafetensorsCheckpoint
from edgellm_converters.pipeline import convert

UP = "model.layers.0.mlp.up_proj"


def assert_stands_for(folder: Path, wanted: tiny.Tensors, tmp_path: Path, published: str) -> None:
    """The file is that of a float32 folder with the decoded values, in float32 and by itself."""
    plain = quantized.llama(tmp_path / "plain")
    tiny.write_safetensors(plain / "model.safetensors", wanted)
    for dtype, same in (("f32", "f32"), ("auto", published)):
        convert(folder, tmp_path / "a.gguf", dtype=dtype, force=True)
        convert(plain, tmp_path / "b.gguf", dtype=same, force=True)
        with (
            GGUFCheckpoint(tmp_path / "a.gguf") as first,
            GGUFCheckpoint(tmp_path / "b.gguf") as second,
        ):
            assert set(first.names) == set(second.names)
            for name in first.names:
                # By itself, what was not quantized stays float32.
                if dtype == "f32" or name.startswith("blk."):
                    assert first.info(name).format == second.info(name).format, name
                    assert first.raw(name).tobytes() == second.raw(name).tobytes(), name


# -- 8-bit floats ---------------------------------------------------------------------------------


def test_the_bytes_of_the_standard() -> None:
    """Values of "FP8 Formats for Deep Learning", table 1, and of the Microscaling Formats."""
    table = FLOAT8["F8_E4M3"]
    wanted = {0x00: 0.0, 0x01: 2**-9, 0x07: 0.875 * 2**-6, 0x08: 2**-6, 0x38: 1.0, 0x7E: 448.0}
    for code, value in wanted.items():
        assert table[code] == value
        assert table[code | 0x80] == -value
    assert np.flatnonzero(np.isnan(table)).tolist() == [0x7F, 0xFF]
    assert not np.isinf(table).any()
    table = FLOAT8["F8_E5M2"]
    wanted = {0x01: 2**-16, 0x03: 0.75 * 2**-14, 0x04: 2**-14, 0x3C: 1.0, 0x7B: 57344.0}
    for code, value in wanted.items():
        assert table[code] == value
        assert table[code | 0x80] == -value
    assert np.flatnonzero(np.isinf(table)).tolist() == [0x7C, 0xFC]
    assert np.isnan(table).sum() == 6
    assert np.signbit(FLOAT8["F8_E4M3"][0x80])
    table = FLOAT8["F8_E8M0"]
    assert [table[0], table[127], table[254]] == [2.0**-127, 1.0, 2.0**127]
    assert np.flatnonzero(np.isnan(table)).tolist() == [255]


def test_every_byte_by_the_formula() -> None:
    for name, formula in (("F8_E4M3", quantized.e4m3), ("F8_E5M2", quantized.e5m2)):
        wanted = np.array([formula(code) for code in range(256)], np.float32)
        assert np.array_equal(FLOAT8[name], wanted, equal_nan=True)


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8"}


def compressed(**weights: Any) -> dict[str, Any]:
    group = {"weights": {"num_bits": 8, "type": "float", "symmetric": True, **weights}}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "transform_config": {},
    }


LAYOUTS: dict[str, dict[str, Any]] = {
    "blocks": {
        "layout": "16x24",
        "ending": "_scale_inv",
        "scheme": {**FP8, "weight_block_size": [16, 24]},
    },
    "blocks that do not divide": {
        "layout": "20x36",
        "ending": "_scale_inv",
        "scheme": {**FP8, "weight_block_size": [20, 36]},
    },
    "blocks larger than a matrix": {
        "layout": "128x128",
        "ending": "_scale_inv",
        "scheme": {**FP8, "weight_block_size": [128, 128]},
    },
    "blocks with bf16 scales": {
        "layout": "16x32",
        "ending": "_scale_inv",
        "scale_dtype": "BF16",
        "scheme": {**FP8, "weight_block_size": [16, 32]},
    },
    "blocks with powers of two": {
        "layout": "32x32",
        "ending": "_scale_inv",
        "scale_dtype": "F8_E8M0",
        "scheme": {**FP8, "weight_block_size": [32, 32], "scale_fmt": "ue8m0"},
    },
    "one scale": {
        "layout": "tensor",
        "ending": "_scale_inv",
        "extra": "activation_scale",
        "scheme": {**FP8, "activation_scheme": "static", "weight_block_size": None},
    },
    "other format": {
        "layout": "tensor",
        "ending": "_scale_inv",
        "dtype": "F8_E5M2",
        "scheme": {**FP8, "weight_block_size": None},
    },
    "modelopt": {
        "layout": "tensor of one",
        "ending": "_scale",
        "extra": "input_scale",
        "scheme": MODELOPT,
    },
    "compressed by channel": {
        "layout": "channel",
        "ending": "_scale",
        "scale_dtype": "BF16",
        "scheme": compressed(strategy="channel"),
    },
    "compressed by tensor": {
        "layout": "tensor of one",
        "ending": "_scale",
        "extra": "input_scale",
        "scheme": compressed(strategy="tensor"),
    },
    "compressed by block": {
        "layout": "32x48",
        "ending": "_scale",
        "scheme": compressed(strategy="block", block_structure=[32, 48]),
    },
    "by row": {
        "layout": "channel vector",
        "ending": "_scale",
        "extra": "input_scale_ub",
        "scheme": {"quant_method": "fbgemm_fp8"},
    },
    "no scale": {"layout": "none", "ending": "", "scheme": None},
    "no scale, other format": {
        "layout": "none",
        "ending": "",
        "dtype": "F8_E5M2",
        "scheme": None,
    },
    "modules left alone": {
        "layout": "16x24",
        "ending": "_scale_inv",
        "skip": "mlp.",
        "scheme": {
            **FP8,
            "weight_block_size": [16, 24],
            "modules_to_not_convert": ["model.layers.0.mlp", "model.layers.1.mlp", "lm_head"],
        },
    },
}


@pytest.mark.parametrize("slab", [300, 1 << 21])
@pytest.mark.parametrize("name", LAYOUTS)
def test_8_bit_floats_are_decoded_exactly(
    name: str, slab: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SLAB_VALUES", slab)
    folder = tmp_path / "hf"
    wanted = quantized.float8(folder, **LAYOUTS[name])
    result = convert(folder, tmp_path / "x.gguf")
    assert any("8-bit floats are decoded in float32" in note for note in result.notes)
    assert any("activations" in note for note in result.notes) == ("extra" in LAYOUTS[name])
    kept = {"F32": 13, "BF16": 8} if name == "modules left alone" else {"F32": 7, "BF16": 14}
    assert result.types == kept
    if name == "modules left alone":
        convert(folder, tmp_path / "a.gguf", dtype="f32")
        with GGUFCheckpoint(tmp_path / "a.gguf") as checkpoint:
            for ours, theirs in (("ffn_up", "mlp.up_proj"), ("attn_v", "self_attn.v_proj")):
                found = checkpoint.load(f"blk.1.{ours}.weight")
                assert np.array_equal(found, wanted[f"model.layers.1.{theirs}.weight"])
        return
    assert_stands_for(folder, wanted, tmp_path, "bf16")


@pytest.mark.parametrize("to", ["hf", "mlx"])
@pytest.mark.parametrize("kind", ["fp8", "gptq"])
def test_folders_of_decoded_weights_are_plain_ones(kind: str, to: str, tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    if kind == "fp8":
        wanted = quantized.float8(folder, **LAYOUTS["blocks"])
    else:
        wanted = quantized.packed(folder, "gptq")
    result = convert(folder, tmp_path / "out", to=to, dtype="f32")
    assert any("14 tensors" in note for note in result.notes)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    found = tiny.read_safetensors(tmp_path / "out")
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert np.array_equal(found[name], array), name
    # and in the type that the weights are meant for
    convert(folder, tmp_path / "auto", to=to)
    convert(tmp_path / "auto", tmp_path / "a.gguf")  # which is a source like any other
    kept = tiny.read_safetensors(tmp_path / "auto")
    for name, array in wanted.items():
        step = {"fp8": 2.0**-8, "gptq": 2.0**-11}[kind]  # half a unit in the last place
        np.testing.assert_allclose(kept[name], array, rtol=step, atol=2.0**-25)


def change_scheme(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


def test_8_bit_floats_quantize_like_their_values(tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    wanted = quantized.float8(folder, **LAYOUTS["blocks"])
    plain = quantized.llama(tmp_path / "plain")
    tiny.write_safetensors(plain / "model.safetensors", wanted)
    first = convert(folder, tmp_path / "a.gguf", recipe="Q4_0")
    second = convert(plain, tmp_path / "b.gguf", recipe="Q4_0")
    assert first.types == second.types
    with GGUFCheckpoint(first.output) as one, GGUFCheckpoint(second.output) as two:
        for name in one.names:
            assert one.raw(name).tobytes() == two.raw(name).tobytes()


def test_scales_that_are_missing_or_do_not_fit(tmp_path: Path) -> None:
    quantized.float8(tmp_path / "none", "none", ending="", scheme=FP8)
    with pytest.raises(errors.UnsupportedError, match="has no scale"):
        convert(tmp_path / "none", tmp_path / "x.gguf")
    quantized.float8(tmp_path / "other", **LAYOUTS["blocks"])
    change_scheme(tmp_path / "other", weight_block_size=[16, 16])
    with pytest.raises(errors.UnsupportedError, match=r"scale_inv.*\[2, 2\].*need \[2, 3\]"):
        convert(tmp_path / "other", tmp_path / "x.gguf")
    for wrong in ([16], [0, 16], "16", [True, 16], [16, 1 << 40]):
        change_scheme(tmp_path / "other", weight_block_size=wrong)
        with pytest.raises(errors.ConfigError, match="weight_block_size"):
            convert(tmp_path / "other", tmp_path / "x.gguf")


def test_nan_codes_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantized.float8(tmp_path / "hf", **LAYOUTS["blocks"])
    file = tmp_path / "hf" / "model.safetensors"
    data = bytearray(file.read_bytes())
    size = int.from_bytes(data[:8], "little")
    start = json.loads(data[8 : 8 + size])[f"{UP}.weight"]["data_offsets"][0]
    data[8 + size + start + 32 * 3 + 5] = 0x7F
    file.write_bytes(data)
    assert run(["convert", str(tmp_path / "hf"), "-o", str(tmp_path / "x.gguf")]) == 1
    assert f"tensor {UP}.weight, the first in row 3, column 5 (NaN)" in capsys.readouterr().err


# -- packed integers ------------------------------------------------------------------------------

PACKED: dict[str, dict[str, Any]] = {
    "gptq": {"kind": "gptq"},
    "gptq, 8 bits": {"kind": "gptq", "bits": 8},
    "gptq, 2 bits": {"kind": "gptq", "bits": 2},
    "gptq, columns in another order": {"kind": "gptq", "shuffled": True, "desc_act": True},
    "gptq, one group": {"kind": "gptq", "group": -1},
    "gptq, no indices": {"kind": "gptq", "indices": False, "group": 8},
    "gptq_v2": {"kind": "gptq", "second": True, "checkpoint_format": "gptq_v2"},
    "gptq_v2, all ones": {
        "kind": "gptq",
        "second": True,
        "checkpoint_format": "gptq_v2",
        "zero": 15,
    },
    "gptq, bf16": {"kind": "gptq", "scale_dtype": "F32"},
    "awq": {"kind": "awq", "version": "gemm", "zero_point": True},
    "awq, one group": {"kind": "awq", "version": "GEMM", "zero_point": True, "group": -1},
}


@pytest.mark.parametrize("slab", [300, 1 << 21])
@pytest.mark.parametrize("name", PACKED)
def test_packed_integers_are_decoded_exactly(
    name: str, slab: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SLAB_VALUES", slab)
    folder = tmp_path / "hf"
    wanted = quantized.packed(folder, **PACKED[name])
    result = convert(folder, tmp_path / "x.gguf")
    kind = PACKED[name]["kind"].upper()
    assert any(f"14 tensors of {kind} are decoded" in note for note in result.notes)
    published = "f32" if name == "gptq, bf16" else "f16"
    assert_stands_for(folder, wanted, tmp_path, published)


def test_a_zero_point_that_readers_take_differently(tmp_path: Path) -> None:
    """In the first version, 15 is what is left of 0 - 1, or 16 - 1."""
    quantized.packed(tmp_path / "hf", "gptq", zero=16)
    with pytest.raises(errors.UnsupportedError, match="zero point 15") as caught:
        convert(tmp_path / "hf", tmp_path / "x.gguf")
    assert "original weights" in str(caught.value.hint)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_packed_tensors_that_do_not_fit(tmp_path: Path) -> None:
    quantized.packed(tmp_path / "hf", "gptq", shuffled=True)
    for changes, words in (
        ({"group_size": 8}, r"scales.*\[2, 32\], not \[4, 32\]"),
        ({"bits": 8}, r"scales"),
        ({"group_size": 0}, "group_size"),
        ({"bits": "4"}, "bits"),
    ):
        original = (tmp_path / "hf" / "config.json").read_text()
        change_scheme(tmp_path / "hf", **changes)
        with pytest.raises(errors.ConvertersError, match=words):
            convert(tmp_path / "hf", tmp_path / "x.gguf")
        (tmp_path / "hf" / "config.json").write_text(original)
    file = tmp_path / "hf" / "model.safetensors"
    data = bytearray(file.read_bytes())
    size = int.from_bytes(data[:8], "little")
    start = json.loads(data[8 : 8 + size])[f"{UP}.g_idx"]["data_offsets"][0]
    data[8 + size + start] = 2  # there are groups 0 and 1
    file.write_bytes(data)
    with pytest.raises(errors.CorruptFileError, match="a group beyond 1"):
        convert(tmp_path / "hf", tmp_path / "x.gguf")


def test_groups_of_columns_are_whole_numbers(tmp_path: Path) -> None:
    quantized.packed(tmp_path / "hf", "gptq", shuffled=True)
    file = tmp_path / "hf" / "model.safetensors"
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + size])
    table[f"{UP}.g_idx"]["dtype"] = "F32"
    text = json.dumps(table).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    with pytest.raises(errors.UnsupportedError, match="g_idx' is of type F32"):
        convert(tmp_path / "hf", tmp_path / "x.gguf")


def test_rows_that_fill_no_whole_words_of_zero_points_are_refused() -> None:
    # 12 rows of 4 bits take a word and a half.
    codes, zeros, scales = (
        SafetensorInfo(name, dtype, shape, Path("x"), 0, 0)
        for name, dtype, shape in (
            ("qweight", "I32", (4, 12)),
            ("qzeros", "I32", (2, 1)),
            ("scales", "F16", (2, 12)),
        )
    )
    nothing = SafetensorsCheckpoint({}, {})
    with pytest.raises(errors.UnsupportedError, match="qzeros"):
        GPTQWeight(nothing, Pieces(codes, zeros, scales), 4, 16, second_version=True)


# -- what is not decoded --------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "by 'bitsandbytes'"),
    "a new method": ({"quant_method": "x" * 500}, "by 'xxx"),
    "no method": ({"bits": 4}, "does not name"),
    "mxfp4": ({"quant_method": "mxfp4"}, "by 'mxfp4'"),
    "gptq, 3 bits": ({"quant_method": "gptq", "bits": 3, "group_size": 32}, "GPTQ to 3 bits"),
    "gptq, marlin": (
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "is_marlin_format": True},
        "'marlin'",
    ),
    "awq, gemv": (
        {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemv"},
        "'gemv'",
    ),
    "awq, no zero points": (
        {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": False},
        "AWQ",
    ),
    "compressed integers": (
        {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
        "'pack-quantized'",
    ),
    "compressed, something else": (compressed(num_bits=4), "something else than 8-bit floats"),
    "compressed after a rotation": (
        {**compressed(), "transform_config": {"config_groups": {"u": {}}}},
        "after a transform",
    ),
    "modelopt, 4 bits": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "'NVFP4'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_kinds_are_refused_with_a_way_out(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scheme, words = REFUSED[case]
    folder = quantized.llama(tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": scheme}
    (folder / "config.json").write_text(json.dumps(config))
    args = ["convert", str(folder), "-o", str(tmp_path / "x.gguf"), "--json"]
    assert run(args) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert words in error["message"]
    assert "quantization_config" in error["message"]
    assert len(error["message"]) < 300 + len(str(folder))
    assert "original weights" in error["hint"]
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
