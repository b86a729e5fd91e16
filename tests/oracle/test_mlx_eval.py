"""MLX folders are measured as the GGUF files of the same weights are."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import tiny
from edgellm.api.convert import convert
from edgellm.backends.base import LoadOptions
from edgellm.errors import BackendError, UsageError
from edgellm.evaluate.compare import compare
from edgellm.evaluate.texts import Text
from edgellm.generate.template import Message
from edgellm_converters.errors import UnsupportedError

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("default"),  # what mlx-lm and transformers warn of is theirs
]
if importlib.util.find_spec("mlx_lm") is None or importlib.util.find_spec("mlx") is None:
    pytest.skip("needs mlx-lm and mlx", allow_module_level=True)

PROSE = Text("prose", "en", content="the quick brown fox and the lazy dog, " * 12)
PERSIAN = Text("fa", "fa", content="کتاب روی میز است و باران می‌بارد. " * 8)
CONTEXT = 32


def measure(reference, model, texts=(PROSE, PERSIAN)):
    options = LoadOptions(threads=1)
    return compare(reference, [model], list(texts), context=CONTEXT, options=options).evaluations[0]


@pytest.fixture(params=["llama", "llama-bpe", "gemma3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tiny.MODELS[request.param](tmp_path / "hf")


def test_a_folder_is_the_gguf_file_of_its_weights(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "float.mlx")
    convert(folder, tmp_path / "float.gguf", dtype="f32")
    found = measure(tmp_path / "float.gguf", tmp_path / "float.mlx")
    quality = found.quality
    # Keys and values in float16 on llama.cpp's side.
    assert quality.kld.mean < 1e-4
    assert quality.perplexity == pytest.approx(quality.reference_perplexity, rel=2e-3)
    assert quality.top1_agreement > 95
    same = measure(tmp_path / "float.mlx", tmp_path / "float.mlx").quality
    assert (same.kld.maximum, same.top1_agreement) == (0, 100)
    # The folder's own tokenizer makes the same tokens as llama.cpp's.
    assert same.perplexity == pytest.approx(quality.perplexity, rel=1e-6)


def test_codes_are_measured_as_the_values_they_stand_for(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "float.mlx")
    convert(folder, tmp_path / "x.mlx", bits=4, group_size=32)
    convert(tmp_path / "x.mlx", tmp_path / "x.gguf", dtype="f32")
    codes = measure(tmp_path / "float.mlx", tmp_path / "x.mlx").quality
    values = measure(tmp_path / "float.mlx", tmp_path / "x.gguf").quality
    assert codes.kld.mean > 1e-4
    assert codes.kld.mean == pytest.approx(values.kld.mean, rel=0.02)


def test_conversations_and_control_texts(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = (
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    convert(folder, tmp_path / "x.gguf", dtype="f32")
    turns = (Message("user", "the fox </s> " * 4), Message("assistant", "the dog " * 9))
    talk = Text("talk", "en", conversations=(turns, turns))
    own = measure(None, folder, [talk]).scores[0]
    theirs = measure(None, tmp_path / "x.gguf", [talk]).scores[0]
    assert own.nll == pytest.approx(theirs.nll, rel=1e-2, abs=1e-2)


def test_folders_that_are_refused(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    other = tiny.llama(tmp_path / "bpe", tokenizer=tiny.byte_level(tiny.SMOLLM))
    with pytest.raises(UsageError, match="has a vocabulary of"):
        measure(folder, other)
    (folder / "config.json").write_text(json.dumps({**config, "model_file": "evil.py"}))
    with pytest.raises(UnsupportedError, match="brings code of its own"):
        measure(None, folder)
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nothing"}))
    with pytest.raises(BackendError, match="mlx-lm cannot load it") as caught:
        measure(None, folder)
    assert "\n" not in str(caught.value)


def test_small_steps_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgellm.backends.mlx import scorer

    folder = tiny.llama(tmp_path / "hf")
    whole = measure(None, folder).scores[0].nll
    monkeypatch.setattr(scorer, "output_limit", lambda _size, _batch: 4)
    assert np.allclose(measure(None, folder).scores[0].nll, whole, rtol=1e-4, atol=1e-4)
