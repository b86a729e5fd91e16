"""Sizes of encoders that llama.cpp would fail an assertion on: whole tiny models, keys changed."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from edgellm.models.check import check_model_file
from edgellm_converters.errors import ConvertersError, CorruptFileError
from edgellm_converters.pipeline import convert
from hostile.test_expert_parameters import VALUES, changed
from hostile.test_native import load_natively

NAMES = ("bert", "nomic-bert", "jina-bert-v2")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The GGUF file of each family."""
    folder = tmp_path_factory.mktemp("encoders")
    found = {}
    for name in NAMES:
        convert(tiny.ENCODERS[name](folder / name), folder / f"{name}.gguf", dtype="f32")
        found[name] = (folder / f"{name}.gguf").read_bytes()
    return found


def lengths(name: str, key: int, value: int) -> dict[str, int]:
    return {f"{name}.attention.key_length": key, f"{name}.attention.value_length": value}


# Changes of keys, words of the sentence.
HARMFUL = {
    **{f"values that are shorter ({name})": (name, (16, 8), "differ") for name in NAMES},
    **{f"longer heads ({name})": (name, (32, 32), "heads of 32") for name in NAMES},
}


@pytest.mark.parametrize("case", HARMFUL)
def test_heads_that_do_not_fit_give_one_sentence(
    case: str, models: dict[str, bytes], tmp_path: Path
) -> None:
    name, (key, value), words = HARMFUL[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(changed(models[name], lengths(name, key, value)))
    with pytest.raises(CorruptFileError, match=words):
        check_model_file(path)


@pytest.mark.parametrize("feed", [48, 95, 97, 384])
def test_a_matrix_of_gates_has_one_or_two_halves(
    feed: int, models: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "bad.gguf"
    key = "jina-bert-v2.feed_forward_length"
    path.write_bytes(changed(models["jina-bert-v2"], {key: feed}))
    with pytest.raises(CorruptFileError, match=rf"ffn_up\.weight.*192 rows.*{feed}"):
        check_model_file(path)
    assert load_natively([path])[0].startswith("crashed")


def test_untouched_models_pass_and_load(models: dict[str, bytes], tmp_path: Path) -> None:
    paths = []
    for name, file in models.items():
        paths.append(tmp_path / f"{name}.gguf")
        paths[-1].write_bytes(file)
        check_model_file(paths[-1])
    assert load_natively(paths) == ["loaded"] * len(paths)


@pytest.mark.parametrize("name", NAMES)
def test_no_size_that_passes_crashes(name: str, models: dict[str, bytes], tmp_path: Path) -> None:
    """Each whole number of the family in turn, at sizes that are near others of the model."""
    passed = []
    for suffix in (
        *("context_length", "embedding_length", "feed_forward_length", "block_count"),
        *("attention.head_count", "attention.head_count_kv", "attention.key_length"),
        *("attention.value_length", "rope.dimension_count", "pooling_type", "expert_count"),
    ):
        for value in VALUES:
            path = tmp_path / f"{suffix}-{value}.gguf"
            path.write_bytes(changed(models[name], {f"{name}.{suffix}": value}))
            try:
                check_model_file(path)
            except ConvertersError:
                continue
            passed.append(path)
    verdicts = load_natively(passed)
    assert "loaded" in verdicts
    crashed = [p.name for p, verdict in zip(passed, verdicts, strict=True) if "crashed" in verdict]
    assert not crashed
