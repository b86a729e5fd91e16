"""Tensors in shards, and those of folders within the folder, as one checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from edgellm_converters.checkpoints.safetensors import SafetensorsCheckpoint
from edgellm_converters.writers.folder import FolderSpec, tensor_folder
from edgellm_quant.formats import FORMATS


def test_shards_and_nested_files_are_read_as_one(tmp_path: Path) -> None:
    names = ["a", "b", "2_Dense/linear.weight", "3_Dense/linear.weight"]
    arrays = [np.full((2, 4), number, dtype=np.float32) for number in range(len(names))]
    specs = [FolderSpec(name, (2, 4), FORMATS["F32"]) for name in names]
    with tensor_folder(tmp_path, specs, max_shard=32) as writer:
        for array in arrays:
            writer.begin()
            writer.write(array)
        _, size = writer.finish()
    files = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.safetensors")}
    assert files == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "2_Dense/model.safetensors",
        "3_Dense/model.safetensors",
    }
    assert size == sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == {"a", "b"}  # transformers knows no others
    assert index["metadata"]["total_size"] == 64
    found = SafetensorsCheckpoint.open(tmp_path)
    assert list(found.tensors) == names
    for name, array in zip(names, arrays, strict=True):
        assert np.array_equal(found.raw(name), array)
