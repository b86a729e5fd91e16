"""Folders that must not reach MLX or transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny
from edgellm.cli.errors import describe
from edgellm.models.check_folder import check_model_folder
from edgellm_converters.errors import (
    ConfigError,
    ConvertersError,
    CorruptFileError,
    SourceNotFoundError,
    UnsupportedError,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.llama(tmp_path / "hf")


def change(folder: Path, name: str = "config.json", **changes: object) -> None:
    file = folder / name
    values = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(values | changes))


def test_a_whole_folder_passes_with_what_it_says(folder: Path) -> None:
    found = check_model_folder(folder)
    assert found.config["hidden_size"] == 64
    assert found.tensors["model.norm.weight"].shape == (64,)
    check_model_folder(tiny.gemma3(folder.parent / "gemma"))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 1e30},
        {"n_layer": 10**12},
        {"num_local_experts": 10**9},
        {"text_config": {"num_hidden_layers": 2**40}},
    ],
)
def test_numbers_that_would_fill_the_memory(folder: Path, changes: dict[str, object]) -> None:
    change(folder, **changes)
    with pytest.raises(CorruptFileError, match=r"config\.json: n.* is .* tensors") as caught:
        check_model_folder(folder)
    assert describe(caught.value)[1] == 5


@pytest.mark.parametrize("section", [{"model_file": "a.py"}, {"text_config": {"model_file": "a"}}])
def test_code_in_the_folder_is_not_run(folder: Path, section: dict[str, object]) -> None:
    change(folder, **section)
    with pytest.raises(UnsupportedError, match="brings code of its own"):
        check_model_folder(folder)


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"],
)
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 2000 + "1" + "}" * 2000, "[1]", "{", ""])
def test_json_that_is_none_or_too_deep(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        check_model_folder(folder)


@pytest.mark.parametrize("name", ["tokenizer.model", "chat_template.jinja", "vocab.json"])
def test_files_that_are_too_large(folder: Path, name: str) -> None:
    with (folder / name).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="more than the"):
        check_model_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_links_that_lead_out_of_the_folder(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(CorruptFileError, match="leads out of its folder"):
        check_model_folder(folder)


def test_a_second_file_of_tensors_is_checked_too(folder: Path) -> None:
    """mlx-lm opens all that are called model*.safetensors, whatever the index says."""
    (folder / "model-extra.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(CorruptFileError, match=r"model-extra\.safetensors"):
        check_model_folder(folder)


def test_damaged_headers(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for size in (0, 7, 100, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(CorruptFileError):
            check_model_folder(folder)


def test_folders_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"no config\.json"):
        check_model_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SourceNotFoundError, match=r"model\.safetensors"):
        check_model_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ConvertersError, match="pickle"):
        check_model_folder(tmp_path)
