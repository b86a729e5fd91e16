"""mlx-lm computes from our MLX folders what transformers and llama.cpp compute from the sources."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import tiny
from edgellm_converters.architectures import by_hf_name
from edgellm_converters.errors import UnsupportedError
from edgellm_converters.jsonfile import read_object
from edgellm_converters.pipeline import convert
from edgellm_quant.mlx_recipes import MLXRecipe

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("default"),  # what mlx-lm and transformers warn of is theirs
]
if importlib.util.find_spec("mlx_lm") is None or importlib.util.find_spec("mlx") is None:
    pytest.skip("needs mlx-lm and mlx", allow_module_level=True)

from oracle import derive  # noqa: E402
from oracle.mlx_logits import logits  # noqa: E402

# Shares of the logits' standard deviation, in float32 on both sides. mlx-lm computes GELU by its
# definition in these families and transformers by the formula with tanh, or the other way round.
LARGEST_DIFFERENCE = 2e-4
OTHER_GELU = {"gemma": 3e-3, "starcoder2": 3e-3, "gptneox": 3e-3, "gptneox-sequential": 3e-3}
# Models that mlx-lm runs otherwise, as a note of `convert` says; positions up to which they agree.
OTHERS = {"gemma2": 8, "phi3-longrope-short": 1}
# Models that mlx-lm cannot be told.
REFUSED = {"phi3-longrope-long": "attention factor"}
# mlx-lm computes in bfloat16 what follows an embedding in mxfp4, until a dense tensor comes.
IN_BFLOAT16 = {("olmo2", "mxfp4"): 0.03}


def in_mlx(folder: Path) -> bool:
    name = read_object(folder / "config.json")["architectures"][0]
    return by_hf_name(folder, name).in_mlx


@pytest.fixture(params=tiny.MODELS)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    folder = tiny.MODELS[request.param](tmp_path / "hf")
    if not in_mlx(folder):
        pytest.skip("mlx-lm has no model of this family")
    if request.param in REFUSED:
        with pytest.raises(UnsupportedError, match=REFUSED[request.param]):
            convert(folder, tmp_path / "mlx", to="mlx")
        pytest.skip("refused, as it must be")
    return request.param, folder


def test_logits_are_those_of_transformers(checkpoint: tuple[str, Path], tmp_path: Path) -> None:
    import torch

    name, folder = checkpoint
    golden = derive.golden(name)
    ids = golden["prompt"] + golden["greedy"]
    _, model = derive.load(folder)
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    result = convert(folder, tmp_path / "mlx", to="mlx")
    found = logits(tmp_path / "mlx", ids)
    assert result.notes or name not in OTHERS
    alike = OTHERS.get(name, len(ids))
    found, wanted = found[:alike], wanted[:alike]
    difference = float(np.abs(found - wanted).max())
    print(f"{name}: largest difference {difference:.1e} of {float(wanted.std()):.2f} (deviation)")
    assert np.array_equal(found.argmax(axis=1), wanted.argmax(axis=1))
    assert difference <= OTHER_GELU.get(name, LARGEST_DIFFERENCE) * wanted.std()


def test_a_folder_from_gguf_is_that_from_the_checkpoint(
    checkpoint: tuple[str, Path], tmp_path: Path
) -> None:
    name, folder = checkpoint
    convert(folder, tmp_path / "one", to="mlx")
    convert(folder, tmp_path / "x.gguf", dtype="f32")
    convert(tmp_path / "x.gguf", tmp_path / "two", to="mlx")
    first, second = (tiny.read_safetensors(tmp_path / each) for each in ("one", "two"))
    assert first.keys() == second.keys()
    for tensor, values in first.items():
        assert np.array_equal(values, second[tensor]), tensor
    ids = derive.golden(name)["prompt"]
    assert np.array_equal(logits(tmp_path / "one", ids), logits(tmp_path / "two", ids))


def test_quantized_folders_load_and_come_back(checkpoint: tuple[str, Path], tmp_path: Path) -> None:
    """What mlx-lm computes from codes is what it computes from the values that they stand for."""
    name, folder = checkpoint
    ids = derive.golden(name)["prompt"]
    for recipe in (MLXRecipe(4, 32), MLXRecipe(3, 32), MLXRecipe(8, 32), MLXRecipe(mode="mxfp4")):
        target, back = tmp_path / recipe.name, tmp_path / f"{recipe.name}-hf"
        result = convert(folder, target, to="mlx", mlx=recipe)
        assert result.types.get(recipe.name, 0) > 0
        convert(target, back)
        convert(back, tmp_path / f"{recipe.name}-dense", to="mlx")
        found, wanted = logits(target, ids), logits(tmp_path / f"{recipe.name}-dense", ids)
        largest = IN_BFLOAT16.get((name, recipe.mode), LARGEST_DIFFERENCE)
        assert np.abs(found - wanted).max() <= largest * wanted.std()
