"""Tensors are those of llama.cpp's own converter bit for bit, and so are the architecture's keys.

Its sources travel in llama-cpp-python's source distribution; see `llama_sources`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import tiny
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.pipeline import convert
from llama_sources import reference_file, run_reference, source_or_skip

pytestmark = pytest.mark.oracle
source_or_skip()
if importlib.util.find_spec("transformers") is None:
    pytest.skip("needs transformers and torch", allow_module_level=True)

# Keys that may differ, and why.
WRITTEN_ANYWAY = {
    "attention.layer_norm_rms_epsilon": "see that of EXAONE below",
    "rope.freq_base": "what llama.cpp takes by default; a reader need not know that",
    "rope.scaling.attn_factor": "theirs is yarn_attn_factor, which llama.cpp passes over",
    "attention.sliding_window_pattern": "theirs is llama.cpp's default, whatever the model has",
    "pooling_type": "theirs passes over the files of sentence-transformers of T5",
}
LEFT_OUT = {
    "attention.sliding_window": "theirs is 0 where the model has no window",
}
# Models whose value is another one there, and why.
OTHERS = {
    ("phi3-longrope-long", "rope.scaling.attn_factor"): "theirs passes over attention_factor",
    ("llama-yarn-rope", "rope.scaling.yarn_attn_factor"): "ours is attn_factor, which is read",
    ("exaone", "attention.layer_norm_epsilon"): "llama.cpp asks for layer_norm_rms_epsilon",
    ("modern-bert", "attention.layer_norm_rms_epsilon"): "llama.cpp does not read it here",
    ("modern-bert", "classifier.pooling_type"): "theirs is of a head that the model has not got",
}
# Models that the reference cannot convert, and why.
NOT_THERE = {
    "stablelm-head-norms": "its function that stacks the norms of heads is never run",
    "modern-bert-silu": "it has no place for decoder.bias of a ModernBertForMaskedLM",
}


CHECKPOINTS = tiny.MODELS | tiny.ENCODERS | tiny.TRANSLATORS


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all checkpoints, with the files that the reference made of them beside them."""
    root = tmp_path_factory.mktemp("reference")
    run_reference([write(root / name) for name, write in CHECKPOINTS.items()])
    return root


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_file_is_that_of_the_reference(name: str, folders: Path, tmp_path: Path) -> None:
    if name in NOT_THERE:
        pytest.skip(NOT_THERE[name])
    ours, theirs = tmp_path / "a.gguf", reference_file(folders / name)
    convert(folders / name, ours, dtype="f32")
    with GGUFCheckpoint(ours) as first, GGUFCheckpoint(theirs) as second:
        assert set(first.names) == set(second.names)
        for tensor in first.names:
            assert first.info(tensor).format == second.info(tensor).format, tensor
            assert first.info(tensor).shape == second.info(tensor).shape, tensor
            assert first.raw(tensor).tobytes() == second.raw(tensor).tobytes(), tensor
        prefix = first.header.metadata["general.architecture"] + "."
        found, wanted = first.header, second.header
        for key in (k for k in {*found.metadata, *wanted.metadata} if k.startswith(prefix)):
            if (name, key.removeprefix(prefix)) in OTHERS:
                continue
            if key not in wanted.metadata:
                assert key.removeprefix(prefix) in WRITTEN_ANYWAY, key
                continue
            if key not in found.metadata and not wanted.metadata[key]:
                assert key.removeprefix(prefix) in LEFT_OUT, key
                continue
            assert found.metadata.get(key) == wanted.metadata[key], key
            assert found.value_types[key] == wanted.value_types[key], key
