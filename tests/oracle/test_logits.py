"""llama.cpp computes from a converted file what transformers computes from the checkpoint."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import tiny

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("default"),  # what torch and transformers warn of is theirs
]
if importlib.util.find_spec("transformers") is None:
    pytest.skip("needs transformers and torch", allow_module_level=True)

from llama_model import opened  # noqa: E402
from oracle import derive  # noqa: E402

# Shares of the logits' standard deviation, in float32 on both sides. llama.cpp takes GELU from a
# table of float16 values.
LARGEST_DIFFERENCE = 5e-5
LARGEST_WITH_GELU = 5e-3


@pytest.mark.parametrize("name", tiny.MODELS)
def test_logits_agree_at_every_position(name: str, tmp_path: Path) -> None:
    import torch

    from edgellm_converters.pipeline import convert

    # llama.cpp looks at names: one with "phi3" in it needs Phi's own special tokens.
    folder = tiny.MODELS[name](tmp_path / "hf")
    golden = derive.golden(name)
    ids = golden["prompt"] + golden["greedy"]
    _, model = derive.load(folder)
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    convert(folder, tmp_path / "x.gguf", dtype="f32")
    with opened(tmp_path / "x.gguf") as native:
        found = np.array(native.logits(ids), dtype=np.float32).reshape(len(ids), -1)
    assert np.array_equal(found.argmax(axis=1), wanted.argmax(axis=1))
    gelu = "gelu" in (folder / "config.json").read_text()
    difference = float(np.abs(found - wanted).max())
    print(f"{name}: largest difference {difference:.1e} of {float(wanted.std()):.2f} (deviation)")
    assert difference <= (LARGEST_WITH_GELU if gelu else LARGEST_DIFFERENCE) * wanted.std()
