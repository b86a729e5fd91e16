"""The dense layers of sentence-transformers: their tensors have files of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tiny
from edgellm_converters.errors import (
    ConfigError,
    ConvertersError,
    CorruptFileError,
    IncompletePlanError,
    UnsupportedError,
)
from edgellm_converters.pipeline import convert
from edgellm_converters.writers.atomic import check_target


def write(folder: Path, name: str, **changes: object) -> None:
    """Change values of a JSON object."""
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_of_another_dtype_keeps_its_dense_layers(tmp_path: Path) -> None:
    folder = tiny.ENCODERS["gemma-embedding"](tmp_path / "hf")
    convert(folder, tmp_path / "half", dtype="f16", to="hf")
    before, after = tiny.read_safetensors(folder), tiny.read_safetensors(tmp_path / "half")
    assert before.keys() == after.keys()
    for name in ("2_Dense/linear.weight", "3_Dense/linear.weight"):
        assert np.array_equal(before[name], after[name])  # exact in float16
    assert (tmp_path / "half" / "3_Dense" / "model.safetensors").exists()
    check_target(tmp_path / "half", folder=True, force=True)


@pytest.mark.parametrize(
    ("file", "changes", "what"),
    [
        ("2_Dense/config.json", {"bias": True}, "bias is true"),
        ("2_Dense/config.json", {"bias": None}, "bias is true"),
        ("3_Dense/config.json", {"activation_function": None}, "activation_function"),
        ("3_Dense/config.json", {"activation_function": "torch.nn.GELU"}, "activation_function"),
        ("2_Dense/config.json", {"in_features": 32}, r"modules\.json.*dense layers"),
        ("2_Dense/config.json", {"out_features": 32}, r"modules\.json.*dense layers"),
        ("3_Dense/config.json", {"out_features": 32}, r"modules\.json.*dense layers"),
        ("3_Dense/config.json", {"in_features": -1}, "in_features"),
    ],
)
def test_dense_layers_that_llama_cpp_has_not_got_are_refused(
    file: str, changes: dict[str, object], what: str, tmp_path: Path
) -> None:
    folder = tiny.ENCODERS["gemma-embedding"](tmp_path / "hf")
    write(folder, file, **changes)
    with pytest.raises((UnsupportedError, ConfigError), match=what):
        convert(folder, tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("order", "what"),
    [
        ([0, 2, 3, 1, 4], "is a 'Dense'"),  # before anything is pooled
        ([0, 1, 4, 2, 3], "is a 'Dense'"),  # after the length is 1
        ([0, 1, 3, 2, 4], "2_Dense"),
        ([0, 1, 2, 4], "dense layers lead"),
        ([0, 1, 2, 3, 3, 4], "4_Dense"),
        ([0, 1, 4], "no place"),
    ],
)
def test_dense_layers_in_another_order_are_refused(
    order: list[int], what: str, tmp_path: Path
) -> None:
    folder = tiny.ENCODERS["gemma-embedding"](tmp_path / "hf")
    steps = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([steps[number] for number in order]))
    with pytest.raises(ConvertersError, match=what):
        convert(folder, tmp_path / "x.gguf")


def test_dense_layers_without_their_tensors_are_refused(tmp_path: Path) -> None:
    folder = tiny.ENCODERS["gemma-embedding"](tmp_path / "hf")
    (folder / "3_Dense" / "model.safetensors").unlink()
    with pytest.raises(IncompletePlanError, match=r"3_Dense/linear\.weight"):
        convert(folder, tmp_path / "x.gguf")


def test_dense_layers_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = tiny.ENCODERS["gemma-embedding"](tmp_path / "hf")
    (folder / "3_Dense" / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (folder / "3_Dense" / "model.safetensors").symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(CorruptFileError, match="leads out of its folder"):
        convert(folder, tmp_path / "x.gguf")
