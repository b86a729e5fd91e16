"""Beam search finds what transformers' finds from the same weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

import tiny
from edgellm.api.convert import convert
from edgellm.backends.base import LoadOptions, get_backend
from edgellm.generate.beam import beam_search

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("default"),  # what torch and transformers warn of is theirs
]
if importlib.util.find_spec("transformers") is None:
    pytest.skip("needs transformers and torch", allow_module_level=True)

from oracle import derive  # noqa: E402

PROMPTS = ([3, 9, 4, 11, 7], [5, 6], [8, 30, 12, 20])


def never() -> bool:
    return False


@pytest.mark.parametrize("backend", ["llama_cpp", "mlx"])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, -1.0, 2.0])
def test_the_beams_of_transformers(backend: str, length_penalty: float, tmp_path: Path) -> None:
    import torch

    chosen = get_backend(backend)
    if reason := chosen.missing():
        pytest.skip(reason)
    folder = tiny.llama(tmp_path / "hf", seed=5)
    path = tmp_path / ("x.mlx" if backend == "mlx" else "x.gguf")
    convert(folder, path, dtype="f32")
    _, reference = derive.load(folder)
    model = chosen.load(path, LoadOptions(), never)
    branches = model.open_branches(8, 20, 7)
    branches.prefill(PROMPTS[0], never)
    # The model writes its ends nowhere, being random: some likely tokens stand for them.
    ends = branches.logits()[0].argsort()[-12:-8].tolist()
    ending = SimpleNamespace(end_tokens=frozenset(ends), piece=model.piece)
    finished = set()
    others = 0
    # llama.cpp keeps keys and values in float16: scores differ a little, and two texts that are
    # almost equally likely may be swapped.
    near = 5e-4 if backend == "mlx" else 2e-3
    for prompt in PROMPTS:
        for beams, most in ((4, 10), (3, 1), (7, 20)):
            with torch.no_grad():
                wanted = reference.generate(
                    torch.tensor([prompt]), num_beams=beams, num_return_sequences=beams,
                    max_new_tokens=most, length_penalty=length_penalty, do_sample=False,
                    eos_token_id=ends, pad_token_id=ends[0], output_scores=True,
                    return_dict_in_generate=True, early_stopping=False,
                )  # fmt: skip
            found = beam_search(
                ending, branches, prompt, beams=beams, most=most, full="length",
                length_penalty=length_penalty, stop=(), cancelled=never,
                progress=lambda _done, _tokens: None,
            )  # fmt: skip
            rows = zip(wanted.sequences, wanted.sequences_scores, strict=True)
            for (sequence, score), beam in zip(rows, found, strict=True):
                tokens = sequence.tolist()[len(prompt) :]
                assert beam.score == pytest.approx(float(score), rel=near)
                if list(beam.tokens) == tokens[: len(beam.tokens)]:
                    assert set(tokens[len(beam.tokens) :]) <= {ends[0]}  # what it fills up with
                else:
                    others += 1
                finished.add(beam.finish_reason)
    branches.close()
    model.close()
    assert others <= (0 if backend == "mlx" else 2)
    assert finished == ({"length"} if length_penalty > 1 else {"stop", "length"})
