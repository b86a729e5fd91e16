"""The golden file is what transformers says, and transformers reads the folders we write."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import tiny

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("default"),  # what torch and transformers warn of is theirs
]
if importlib.util.find_spec("transformers") is None:
    pytest.skip("needs transformers and torch", allow_module_level=True)

from oracle import derive  # noqa: E402


@pytest.mark.parametrize("name", tiny.MODELS)
def test_the_golden_file_is_what_transformers_says(name: str, tmp_path: Path) -> None:
    golden = derive.golden(name)
    found = derive.derive(tiny.MODELS[name](tmp_path / name))
    assert found["prompt"] == golden["prompt"]
    assert found["greedy"] == golden["greedy"]
    assert found["logits"] == pytest.approx(golden["logits"], abs=1e-3)


@pytest.mark.parametrize("name", tiny.MODELS)
def test_transformers_takes_a_folder_made_from_gguf_for_the_original(
    name: str, tmp_path: Path
) -> None:
    from edgellm_converters.pipeline import convert

    convert(tiny.MODELS[name](tmp_path / name), tmp_path / "x.gguf", dtype="f32")
    convert(tmp_path / "x.gguf", tmp_path / "back")
    golden = derive.golden(name)
    found = derive.derive(tmp_path / "back")
    assert found["prompt"] == golden["prompt"]
    assert found["greedy"] == golden["greedy"]
