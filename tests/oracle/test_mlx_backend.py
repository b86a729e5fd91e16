"""MLX writes the texts that llama.cpp writes from the same weights."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgellm
import tiny
from edgellm.api.convert import convert
from edgellm.backends.base import LoadOptions, Model, Sampling, get_backend
from edgellm.errors import BackendError, DoesNotFitError, UsageError
from edgellm_converters.errors import UnsupportedError

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("default"),  # what mlx-lm and transformers warn of is theirs
]
if importlib.util.find_spec("mlx_lm") is None or importlib.util.find_spec("mlx") is None:
    pytest.skip("needs mlx-lm and mlx", allow_module_level=True)

from edgellm.backends.mlx.tokenizer import ENDERS, SHOWN  # noqa: E402

GREEDY = Sampling(temperature=0)
TEXTS = (
    "the cat sat",
    "کتاب می‌خوانم، ۱۲۳ و ١٢٣",
    "زبان فارسی 👩‍👩‍👧 🙂 e\u0301",
    "def f(x):\n\treturn x**2  # <s> </s> <|im_end|>\r\n",
    "  two  spaces   and\n\n\nlines ",
    "",
)


def never() -> bool:
    return False


def opened(path: Path) -> Model:
    return get_backend("mlx" if path.is_dir() else "llama_cpp").load(path, LoadOptions(), never)


@pytest.fixture
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Model, Model]]:
    """The same weights in MLX and in llama.cpp."""
    folder = tiny.MODELS[request.param](tmp_path / "hf")
    if request.param == "qwen2":  # whose texts are composed
        file = folder / "tokenizer.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"normalizer": {"type": "NFC"}}))
    convert(folder, tmp_path / "x.gguf", dtype="f32")
    models = opened(folder), opened(tmp_path / "x.gguf")
    yield models
    for model in models:
        model.close()


def with_names(folder: Path, names: list[str], *, special: bool) -> Path:
    """A Llama whose tokenizer has these tokens besides."""
    tokenizer = tiny.byte_level(tiny.SMOLLM)
    first = len(tokenizer["model"]["vocab"])
    for index, name in enumerate(names, start=first):
        tokenizer["model"]["vocab"][name] = index
        tokenizer["added_tokens"].append(
            {**tokenizer["added_tokens"][0], "id": index, "content": name, "special": special}
        )
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    return tiny.llama(folder, tokenizer=tokenizer, settings=settings)


@pytest.mark.parametrize("both", ["llama", "llama-bpe", "gemma3", "qwen2", "phi3"], indirect=True)
def test_vocabularies_are_those_of_llama_cpp(both: tuple[Any, Any]) -> None:
    """Tokens of texts, and the bytes, texts and ends of all tokens."""
    ours, theirs = both
    for text in TEXTS:
        for special in (True, False):
            wanted = theirs.tokenize(text, special=special)
            assert ours.tokenize(text, special=special) == wanted, (text, special)
    assert (ours.start_token, ours.eos_text) == (theirs.start_token, theirs.eos_text)
    for token in range(len(ours.tokenizer)):
        assert ours.tokenizer.piece(token) == theirs.piece(token), ours.token_text(token)
        assert ours.control_text(token) == theirs.control_text(token)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    "left_out",
    [("<|return|>", "<|flush|>"), ("<|flush|>", "<|tool_response>"), ("<|end|>", "</s>"), ()],
)
def test_the_ends_of_texts_are_those_of_llama_cpp(
    tmp_path: Path, left_out: tuple[str, ...], special: bool
) -> None:
    # Of the tokens for code llama.cpp knows one of each kind.
    names = sorted((ENDERS | SHOWN) - {"<|endoftext|>", "<|im_end|>", *left_out})
    for kind in (("<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
                 ("<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>")):  # fmt: skip
        names = [name for name in names if name not in kind]
    folder = with_names(tmp_path / "hf", [*names, "<|other|>"], special=special)
    convert(folder, tmp_path / "x.gguf", dtype="f32")
    ours: Any = opened(folder)
    theirs: Any = opened(tmp_path / "x.gguf")
    for token in range(len(ours.tokenizer)):
        name = ours.token_text(token)
        assert ours.tokenizer.piece(token) == theirs.piece(token), name
        assert ours.control_text(token) == theirs.control_text(token), name
    theirs.close()


@pytest.mark.parametrize("name", sorted(ENDERS))
def test_every_end_is_one_for_llama_cpp(tmp_path: Path, name: str) -> None:
    if name in ("<|endoftext|>", "<|im_end|>"):
        pytest.skip("the tiny tokenizer has it anyway")
    folder = with_names(tmp_path / "hf", [name], special=False)
    convert(folder, tmp_path / "x.gguf", dtype="f32")
    theirs: Any = opened(tmp_path / "x.gguf")
    (token,) = theirs.tokenize(name, special=True)
    assert theirs.piece(token) is None
    theirs.close()


def test_ends_that_the_folder_names(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    config |= {"eos_token_id": [7, 10**9, -1]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": 9, "suppress_tokens": [11, 12]})
    )
    model: Any = opened(folder)
    assert model.tokenizer.end_tokens == {2, 7, 9}
    assert model.tokenizer.suppressed == [11, 12]


@pytest.fixture(params=tiny.MODELS)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    try:
        convert(tiny.MODELS[request.param](tmp_path / "hf"), tmp_path / "x.mlx")
    except UnsupportedError as error:
        pytest.skip(f"not in mlx-lm: {error}")
    return tmp_path / "x.mlx"


def test_every_family_keeps_its_prefix(family: Path) -> None:
    """What is cut back and gone on from is what mlx-lm computes of the whole text at once."""
    model: Any = opened(family)
    mx = model.loaded.native.core
    size = min(model.vocabulary_size, len(model.tokenizer))
    tokens = [3 + (number * 7) % (size - 4) for number in range(60)]
    context = model.open_context(96)
    context.prefill(tokens, GREEDY, never)
    context.next_piece()
    for kept in (40, 9):
        prompt = [*tokens[:kept], *(5 + (number * 5) % (size - 6) for number in range(12))]
        assert context.prefill(prompt, GREEDY, never) in (kept, 0)
        wanted = np.array(model.loaded.model(mx.array([prompt]))[0, -1])
        found = np.array(context._logits)
        assert np.abs(found - wanted).max() <= 1e-3 * wanted.std()
    model.close()


def test_a_quantized_cache(family: Path) -> None:
    """Refused with a sentence, or near to the exact one; 8 bits nearer than 4."""
    model: Any = opened(family)
    size = min(model.vocabulary_size, len(model.tokenizer))
    prompt = [3 + (number * 7) % (size - 4) for number in range(40)]
    logits = {}
    for cache_type in ("f16", "q8_0", "q4_0"):
        reason = refusal(model) if cache_type != "f16" else None
        if reason is not None:
            with pytest.raises(BackendError, match=f"as {cache_type}: {reason}") as caught:
                model.open_context(64, cache_type)
            assert caught.value.hint == "--cache-type f16"
            continue
        context = model.open_context(64, cache_type)
        context.prefill(prompt, GREEDY, never)
        logits[cache_type] = np.array(context._logits)
    if len(logits) > 1:
        eight, four = (
            float(np.abs(logits[each] - logits["f16"]).max() / logits["f16"].std())
            for each in ("q8_0", "q4_0")
        )
        assert 0 < eight < four
        assert eight < 0.2


def refusal(model: Any) -> str | None:
    """Why a cache cannot be quantized: small heads, or an attention of the model's own."""
    layers = [layer for layer in model.open_context(64)._caches._example if hasattr(layer, "keys")]
    if any(side.shape[-1] % 32 for layer in layers for side in (layer.keys, layer.values)):
        return "its heads have"
    return "its attention" if model.loaded.config["model_type"] in ("gemma2",) else None


@pytest.mark.parametrize("both", ["llama", "llama-bpe", "gemma3", "qwen2"], indirect=True)
def test_greedy_texts_are_equal_in_float32(both: tuple[Any, Any]) -> None:
    texts = []
    for model in both:
        context = model.open_context(128)
        context.prefill(model.tokenize("the cat and the hat", special=False), GREEDY, never)
        for _ in range(60):
            if context.next_piece() is None:
                break
        texts.append(list(context.held))
        context.close()
    assert texts[0] == texts[1]
    assert len(texts[0]) > 8


def test_stories_are_the_same_on_both(shared: Path, tmp_path: Path) -> None:
    """A real model: its text, and the divergence of float32 outputs."""
    folder = shared / "models" / "stories260K-hf"
    convert(folder, tmp_path / "x.gguf", dtype="f32")
    texts = []
    for path in (folder, tmp_path / "x.gguf"):
        with edgellm.load(path) as model:
            greedy = model.complete("Once upon a time", sampling=GREEDY, max_tokens=150).read()
            texts.append((greedy.text, greedy.finish_reason))
    assert texts[0] == texts[1]
    (tmp_path / "a.txt").write_text(texts[0][0])
    found = edgellm.measure(
        folder, against=tmp_path / "x.gguf", texts=[tmp_path / "a.txt"], context=128, threads=1
    )
    assert found.evaluations[0].quality.kld.mean < 1e-4


def test_importing_mlx_lm_leaves_the_process_as_it_is() -> None:
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (512, 1024))\n"
        "from edgellm.backends.mlx.library import library\n"
        "library()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.returncode) == ("(512, 1024)\n", 0), done.stderr


@pytest.mark.parametrize("option", ["threads", "gpu_layers"])
def test_what_mlx_has_nothing_for_is_refused_by_name(tmp_path: Path, option: str) -> None:
    folder = tiny.llama(tmp_path / "hf")
    with pytest.raises(UsageError, match=r"MLX .*takes no number") as caught:
        edgellm.load(folder, **{option: 2})
    assert f"--{option.replace('_', '-')}" in caught.value.hint


def test_a_state_that_was_cut_off_or_is_anothers_is_refused(tmp_path: Path) -> None:
    model: Any = opened(tiny.llama(tmp_path / "hf"))
    other: Any = opened(tiny.llama(tmp_path / "other", hidden=32, heads=2, head_dim=8))
    context, stranger = model.open_context(64), other.open_context(64)
    for each in (context, stranger):
        each.prefill([5, 6, 7, 8], GREEDY, never)
    good, bad, strange = (tmp_path / name for name in ("good", "bad", "strange"))
    context.save_state(good)
    stranger.save_state(strange)
    for size in (0, 7, 100, len(good.read_bytes()) - 1):
        bad.write_bytes(good.read_bytes()[:size])
        with pytest.raises(BackendError, match="bad: MLX cannot read its state: "):
            context.load_state(bad, [5, 6, 7, 8])
    for path, held in ((strange, [5, 6, 7, 8]), (good, [5, 6]), (good, [])):
        with pytest.raises(BackendError, match="cannot read its state"):
            context.load_state(path, held)
        assert list(context.held) == []
    context.load_state(good, [5, 6, 7, 8])
    assert context.prefill([5, 6, 7, 8, 9], GREEDY, never) == 4


def test_a_context_larger_than_memory_is_refused(tmp_path: Path) -> None:
    model = opened(tiny.llama(tmp_path / "hf"))
    with pytest.raises(DoesNotFitError, match=r"tokens of context need .* GB of memory"):
        model.open_context(10**12)


def test_ctrl_c_in_the_middle_of_the_layers_loses_the_prefix_and_nothing_else(
    tmp_path: Path,
) -> None:
    model: Any = opened(tiny.llama(tmp_path / "hf"))
    context = model.open_context(96)
    tokens = [3 + number for number in range(20)]
    context.prefill(tokens, GREEDY, never)
    wanted = np.array(context._logits)
    layer = context._caches.layers[1]
    update = layer.update_and_fetch

    def interrupted(_keys: object, _values: object) -> None:
        raise KeyboardInterrupt

    layer.update_and_fetch = interrupted
    with pytest.raises(KeyboardInterrupt):
        context.prefill([*tokens, 4, 5, 6], GREEDY, never)
    layer.update_and_fetch = update
    assert context.prefill(tokens, GREEDY, never) == 0
    assert np.allclose(np.array(context._logits), wanted, atol=1e-4)


def test_tokens_beyond_the_vocabulary_never_reach_mlx(tmp_path: Path) -> None:
    model = opened(tiny.llama(tmp_path / "hf"))
    context = model.open_context(64)
    for token in (-1, 10**6):
        with pytest.raises(BackendError, match="beyond the vocabulary"):
            context.prefill([3, token, 4], GREEDY, never)


def test_settings_of_transformers_5_are_read(tmp_path: Path) -> None:
    """`rope_parameters` alone: mlx-lm would take its own theta."""
    old = tiny.llama(tmp_path / "old", rope={"rope_theta": 500.0})
    new = tiny.llama(
        tmp_path / "new", rope={"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    )
    logits = []
    for folder in (old, new):
        model: Any = opened(folder)
        context = model.open_context(64)
        context.prefill(list(range(3, 40)), GREEDY, never)
        logits.append(np.array(context._logits))
    assert np.array_equal(*logits)
