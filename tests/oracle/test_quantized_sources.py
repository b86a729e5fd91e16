"""Quantized folders are decoded to the values that torch, llama.cpp's converter and mlx-lm give."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_quantized as quantized
from edgellm_converters.checkpoints.float8 import FLOAT8
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.pipeline import convert
from llama_sources import reference_file, run_reference, source_or_skip

pytestmark = pytest.mark.oracle
PROGRAM = Path(__file__).with_name("reference_convert.py")

FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
CHANNEL = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "config_groups": {
        "group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}
    },
}
# What the reference converter decodes; it knows no AWQ, and no checkpoint without a scheme.
FOLDERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "fp8 in blocks": (
        quantized.float8,
        {
            "layout": "20x36",
            "ending": "_scale_inv",
            "scheme": {**FP8, "weight_block_size": [20, 36]},
        },
    ),
    "fp8 with bf16 scales": (
        quantized.float8,
        {
            "layout": "16x16",
            "ending": "_scale_inv",
            "scale_dtype": "BF16",
            "scheme": {**FP8, "weight_block_size": [16, 16]},
        },
    ),
    "e5m2 with one scale": (
        quantized.float8,
        {
            "layout": "tensor",
            "ending": "_scale_inv",
            "dtype": "F8_E5M2",
            "scheme": {**FP8, "weight_block_size": None},
        },
    ),
    "compressed-tensors": (
        quantized.float8,
        {"layout": "channel", "ending": "_scale", "scheme": CHANNEL},
    ),
    "gptq": (quantized.packed, {"kind": "gptq", "shuffled": True}),
    "gptq, 8 bits": (quantized.packed, {"kind": "gptq", "bits": 8}),
    "gptq_v2": (
        quantized.packed,
        {"kind": "gptq", "second": True, "checkpoint_format": "gptq_v2", "zero": 15},
    ),
}


def test_the_bytes_are_torch_s() -> None:
    torch = pytest.importorskip("torch")
    codes = torch.arange(256, dtype=torch.uint8)
    for name, kind in (
        ("F8_E4M3", torch.float8_e4m3fn),
        ("F8_E5M2", torch.float8_e5m2),
        ("F8_E8M0", torch.float8_e8m0fnu),
    ):
        wanted = codes.view(kind).float().numpy()
        assert np.array_equal(FLOAT8[name], wanted, equal_nan=True)
        numbers = ~np.isnan(wanted)
        assert np.array_equal(np.signbit(FLOAT8[name])[numbers], np.signbit(wanted)[numbers])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source_or_skip()
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("reference")
    for name, (write, settings) in FOLDERS.items():
        write(root / name, **settings)
    run_reference([root / name for name in FOLDERS])
    return root


@pytest.mark.parametrize("name", FOLDERS)
def test_the_values_are_the_reference_converter_s(name: str, folders: Path, tmp_path: Path) -> None:
    theirs = reference_file(folders / name)
    convert(folders / name, tmp_path / "ours.gguf", dtype="f32")
    with GGUFCheckpoint(tmp_path / "ours.gguf") as first, GGUFCheckpoint(theirs) as second:
        assert set(first.names) == set(second.names)
        for tensor in first.names:
            assert first.info(tensor).format == second.info(tensor).format, tensor
            assert first.raw(tensor).tobytes() == second.raw(tensor).tobytes(), tensor


def test_awq_is_what_mlx_lm_makes_of_it(tmp_path: Path) -> None:
    """mlx-lm repacks AWQ into its own blocks; both stand for the same values but for a rounding.

    Its value is code * scale + bias, with bias = -zero * scale in float16.
    """
    if importlib.util.find_spec("mlx_lm") is None:
        pytest.skip("needs mlx-lm")
    import mlx.core as mx
    from mlx_lm import utils

    folder = tmp_path / "hf"
    # Groups of 32, and a model of 64 columns, are the least that mlx takes.
    wanted = quantized.packed(folder, "awq", group=32, version="gemm", wide=True)
    convert(folder, tmp_path / "x.gguf", dtype="f32")
    weights = mx.load(str(folder / "model.safetensors"))
    scheme = {"quant_method": "awq", "bits": 4, "group_size": 32}
    found, blocks = utils._transform_awq_weights(weights, scheme)
    with GGUFCheckpoint(tmp_path / "x.gguf") as checkpoint:
        for ours, theirs in (("ffn_down", "mlp.down_proj"), ("attn_v", "self_attn.v_proj")):
            base = f"model.layers.1.{theirs}"
            values = mx.dequantize(
                found[base + ".weight"],
                found[base + ".scales"].astype(mx.float32),
                found[base + ".biases"].astype(mx.float32),
                group_size=blocks["group_size"],
                bits=blocks["bits"],
            )
            mine = checkpoint.load(f"blk.1.{ours}.weight")
            assert np.array_equal(mine, wanted[base + ".weight"])
            # half a unit in the last place of float16, of a bias of at most 15 * 0.05
            np.testing.assert_allclose(np.array(values), mine, rtol=0, atol=0.75 * 2**-11)
