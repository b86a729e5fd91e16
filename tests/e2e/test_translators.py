"""T5 there and back: llama.cpp's encoder and decoder say what transformers' golden files hold."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import tiny
import tiny_encoders
from edgellm.api.chat import load
from edgellm.api.show import show
from edgellm.errors import BackendError
from edgellm.models.check import check_model_file
from edgellm_converters.architectures.t5 import T5
from edgellm_converters.architectures.values import Values
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.errors import ConfigError, UnsupportedError
from edgellm_converters.pipeline import convert
from llama_model import opened
from there_and_back import there_and_back

GOLDEN = Path(__file__).parents[1] / "golden" / "transformers"
PROMPT = "the cat sat on <s>the  mat"
SPECS = {spec.name: spec for spec in tiny_encoders.TRANSLATORS}
START = 0


@pytest.fixture(scope="module", params=tiny.TRANSLATORS)
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path, Path]:
    """A tiny checkpoint, the GGUF made of it, and the folder made of that."""
    name = request.param
    return name, *there_and_back(tmp_path_factory.mktemp(name), tiny.TRANSLATORS[name])


def test_both_halves_say_what_transformers_says(converted: tuple[str, Path, Path, Path]) -> None:
    name, _, gguf, _ = converted
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    assert len(set(golden["greedy"])) > 2  # else the comparison would say little
    with opened(gguf) as model:
        assert model.tokenize(PROMPT) == golden["prompt"]
        vectors, words, logits = model.translate(golden["prompt"], len(golden["greedy"]), START)
    # GELU comes from a table of float16 values; ReLU is exact.
    near = 1e-2 if SPECS[name].gated else 1e-4
    assert vectors[0] == pytest.approx(golden["first"], abs=near)
    assert vectors[-1] == pytest.approx(golden["last"], abs=near)
    assert words == golden["greedy"]
    # transformers divides logits of a tied output by the root of the width, llama.cpp does not.
    divisor = math.sqrt(64) if SPECS[name].tied else 1.0
    last = [value / divisor for value in logits[-1][: len(golden["logits"])]]
    assert last == pytest.approx(golden["logits"], abs=5 * near)


def test_tensors_and_settings_come_back(converted: tuple[str, Path, Path, Path]) -> None:
    _, folder, _, back = converted
    before, after = tiny.read_safetensors(folder), tiny.read_safetensors(back)
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert np.array_equal(array.view(np.uint32), after[name].view(np.uint32)), name
    first, second = (json.loads((each / "config.json").read_text()) for each in (folder, back))
    for key in first.keys() - {"bos_token_id"}:
        assert second[key] == first[key], key


def test_the_file_passes_the_safety_check_and_is_not_chatted_with(
    converted: tuple[str, Path, Path, Path],
) -> None:
    _, _, gguf, _ = converted
    check_model_file(gguf)
    assert show(str(gguf)).architecture == "t5"
    with pytest.raises(BackendError, match="models with an encoder cannot be run yet"):
        load(gguf)


@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
def test_smaller_types_still_run(
    converted: tuple[str, Path, Path, Path], dtype: str, tmp_path: Path
) -> None:
    name, folder, _, _ = converted
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    convert(folder, tmp_path / "x.gguf", dtype=dtype)
    check_model_file(tmp_path / "x.gguf")
    with opened(tmp_path / "x.gguf") as model:
        vectors, words, _ = model.translate(golden["prompt"], 4, START)
    assert np.corrcoef(vectors[0], golden["first"])[0, 1] > 0.998
    if dtype == "f16":
        assert words == golden["greedy"][:4]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"feed_forward_proj": "gelu"}, "feed_forward_proj"),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj"),
        ({"relative_attention_max_distance": 256}, "relative_attention_max_distance"),
        ({"relative_attention_num_buckets": 2}, "2 buckets"),
        ({"relative_attention_num_buckets": 1 << 20}, "buckets"),
        ({"num_decoder_layers": 3}, "num_decoder_layers"),
        ({"decoder_start_token_id": 1 << 20}, "decoder_start_token_id"),
        ({"decoder_start_token_id": -1}, "decoder_start_token_id"),
        ({"d_model": None}, "d_model"),
    ],
)
def test_settings_without_a_place_are_refused(
    changes: dict[str, object], what: str, tmp_path: Path
) -> None:
    folder = tiny.family(tmp_path / "hf", SPECS["t5"], **changes)
    with pytest.raises((UnsupportedError, ConfigError), match=rf"config\.json.*{what}"):
        convert(folder, tmp_path / "x.gguf")


def test_copies_of_the_embedding_are_left_out_if_they_are_copies(tmp_path: Path) -> None:
    folder = tiny.TRANSLATORS["t5-gated"](tmp_path / "hf")
    whole = convert(folder, tmp_path / "x.gguf").sha256
    tensors = tiny.read_safetensors(folder)
    table = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    tensors[table] = np.zeros((8, 4), np.float32)
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].copy()
    tiny.write_safetensors(folder / "model.safetensors", tensors)
    assert convert(folder, tmp_path / "y.gguf").sha256 == whole
    tensors["encoder.embed_tokens.weight"][-1, -1] += 1
    tiny.write_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises(ConfigError, match=r"encoder\.embed_tokens\.weight is not shared\.weight"):
        convert(folder, tmp_path / "z.gguf")


@pytest.mark.parametrize(
    ("key", "value"),
    [("attention.relative_buckets_count", 2), ("decoder_block_count", 3)],
)
def test_metadata_out_of_range_is_refused(key: str, value: int, tmp_path: Path) -> None:
    convert(tiny.TRANSLATORS["t5"](tmp_path / "hf"), tmp_path / "x.gguf")
    with GGUFCheckpoint(tmp_path / "x.gguf") as file:
        metadata = {name: file.header.metadata[name] for name in file.header.metadata}
        shapes = {tensor.name: tensor.shape for tensor in file.header.tensors}
    with pytest.raises(ConfigError, match=str(value)):
        T5.from_metadata(Values(tmp_path, metadata | {f"t5.{key}": value}).under("t5."), shapes)
