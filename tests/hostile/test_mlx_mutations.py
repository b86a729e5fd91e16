"""Damaged folders end in a sentence, or run: neither MLX nor transformers gets away."""

from __future__ import annotations

import copy
import importlib.util
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import tiny
from edgellm.backends.base import LoadOptions, Sampling, get_backend
from edgellm.errors import EdgellmError
from edgellm.models.check_folder import check_model_folder
from edgellm_converters.errors import ConvertersError

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("default"),  # what mlx-lm and transformers warn of is theirs
]
if importlib.util.find_spec("mlx_lm") is None or importlib.util.find_spec("mlx") is None:
    pytest.skip("needs mlx-lm and mlx", allow_module_level=True)

ROUNDS = 25
VALUES = (0, -1, 1, 2**31, 2**62, 1e300, None, "x", [], {}, True, 7, 0.5, -(2**40), [1] * 5)
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


def mutated(value: Any, numbers: random.Random) -> Any:
    """Replace one value somewhere inside, or drop a key."""
    if isinstance(value, dict | list) and value and numbers.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = numbers.choice(keys)
        if isinstance(value, dict) and numbers.random() < 0.1:
            del value[key]
        else:
            value[key] = mutated(value[key], numbers)
        return value
    return copy.deepcopy(numbers.choice(VALUES))


def use(folder: Path) -> None:
    """Everything that `run` does with a model."""
    check_model_folder(folder)
    model = get_backend("mlx").load(folder, LoadOptions(), lambda: False)
    assert model.description
    assert model.trained_context > 0
    tokens = model.tokenize("the <s> cat", special=True) or [3]
    context = model.open_context(64)
    context.prefill([model.start_token or 1, *tokens][:20], Sampling(seed=1), lambda: False)
    for _ in range(5):
        if context.next_piece() is None:
            break
    context.close()
    model.close()


@pytest.mark.parametrize("name", ["llama", "llama-bpe", "gemma3", "mixtral"])
def test_a_mutated_folder_runs_or_is_refused(tmp_path: Path, name: str) -> None:
    whole = tiny.MODELS[name](tmp_path / "whole")
    numbers = random.Random(name)
    refusals = []
    for turn in range(ROUNDS):
        folder = tmp_path / str(turn)
        shutil.copytree(whole, folder)
        file = folder / numbers.choice(FILES)
        values = json.loads(file.read_text()) if file.exists() else {"eos_token_id": 2}
        for _ in range(numbers.randint(1, 3)):
            values = mutated(values, numbers)
        file.write_text(json.dumps(values))
        try:
            use(folder)
        except (EdgellmError, ConvertersError) as error:
            refusals.append(str(error))
        shutil.rmtree(folder)
    assert 0 < len(refusals) < ROUNDS
    assert not any("\n" in sentence for sentence in refusals)
