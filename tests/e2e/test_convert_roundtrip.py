"""Conversion there and back, judged by llama.cpp, transformers' golden files and plain numpy."""

from __future__ import annotations

import json
import random
from pathlib import Path

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer

import tiny
from edgellm.models.check import check_model_file
from edgellm_converters import errors
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.pipeline import convert
from llama_model import opened
from reference_llama import Reference
from there_and_back import there_and_back

GOLDEN = Path(__file__).parents[1] / "golden" / "transformers"
TEXTS = [
    "",
    "the cat sat on the mat",
    "  two spaces,    four\n\nlines\t1234 3.14",
    "سلام دنیا؛ می\u200cخواهم ۱۲۳ کتاب پیک بخوانم.",
    "emoji 😀👩\u200d👩\u200d👧 中文 e\u0301 \u00a0 end ",
    "<s>a</s> b<unk>c <|im_start|>user\nhi<|im_end|><extra>",
]


def random_texts(count: int = 60) -> list[str]:
    """Texts of pieces that tokenizers stumble over."""
    rng = random.Random(5)
    pieces = [
        *" \n\tabcthe'-=0129é\u0300\u200c\u200bی😀",
        "  ",
        "    ",
        "<s>",
        "</s>",
        "<unk>",
        "the",
    ]
    pieces += ["<|im_start|>", "<|im_end|>", "'s", "'LL", "\r\n", "۱۲", "hand", "ing"]
    return ["".join(rng.choices(pieces, k=80)) for _ in range(count)]


@pytest.fixture(scope="module", params=tiny.MODELS)
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path, Path]:
    """A tiny checkpoint, the GGUF made of it, and the folder made of that."""
    name = request.param
    return name, *there_and_back(tmp_path_factory.mktemp(name), tiny.MODELS[name])


def test_tensors_come_back_bit_for_bit(converted: tuple[str, Path, Path, Path]) -> None:
    _, folder, _, back = converted
    assert_same_tensors(tiny.read_safetensors(folder), tiny.read_safetensors(back))


def test_texts_give_the_same_tokens_everywhere(converted: tuple[str, Path, Path, Path]) -> None:
    _, folder, gguf, back = converted
    assert_same_tokens(folder, gguf, back, TEXTS + random_texts())


def test_llama_cpp_says_what_transformers_says(converted: tuple[str, Path, Path, Path]) -> None:
    name, _, gguf, _ = converted
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    assert len(set(golden["greedy"])) > 10  # else the comparison would say little
    with opened(gguf) as model:
        assert model.tokenize("the cat sat on <s>the  mat") == golden["prompt"]
        assert model.greedy(golden["prompt"], 64) == golden["greedy"]
        last = model.logits(golden["prompt"])[-1]
    assert last[: len(golden["logits"])] == pytest.approx(golden["logits"], abs=2e-3)


def test_the_safety_check_lets_the_file_pass(converted: tuple[str, Path, Path, Path]) -> None:
    _, _, gguf, _ = converted
    assert check_model_file(gguf).tensors


@pytest.mark.parametrize(
    ("name", "old", "new", "more"),
    [
        # As the first checkpoints have it, with the causal mask and the head that is the embedding.
        ("gpt2", "transformer.", "", {"h.0.attn.bias": "", "lm_head.weight": "wte.weight"}),
        ("gptneox", "embed_out.", "lm_head.", {"gpt_neox.layers.0.attention.bias": ""}),
        ("falcon", "", "", {"lm_head.weight": "transformer.word_embeddings.weight"}),
    ],
)
def test_other_names_give_the_same_file(
    name: str, old: str, new: str, more: dict[str, str], tmp_path: Path
) -> None:
    folder = tiny.MODELS[name](tmp_path / "hf")
    wanted = convert(folder, tmp_path / "x.gguf").sha256
    tensors = {
        key.replace(old, new, 1): values for key, values in tiny.read_safetensors(folder).items()
    }
    mask = np.tri(128, dtype=np.float32)
    tensors |= {key: tensors[source] if source else mask for key, source in more.items()}
    tiny.write_safetensors(folder / "model.safetensors", tensors)
    assert convert(folder, tmp_path / "y.gguf").sha256 == wanted


def test_a_second_way_there_gives_the_same_file_again(
    converted: tuple[str, Path, Path, Path], tmp_path: Path
) -> None:
    _, _, gguf, back = converted
    convert(back, tmp_path / "again.gguf", dtype="f32")
    with GGUFCheckpoint(gguf) as first, GGUFCheckpoint(tmp_path / "again.gguf") as second:
        assert first.names == second.names
        for tensor in first.names:
            assert first.info(tensor).format == second.info(tensor).format
            assert np.array_equal(first.raw(tensor), second.raw(tensor))
        named = {"general.name", "edgellm.source", "edgellm.tokenizer.layout"}
        for key in first.header.metadata.keys() - named:
            assert first.header.metadata[key] == second.header.metadata[key], key
            assert first.header.value_types[key] == second.header.value_types[key], key
        assert first.header.metadata.keys() == second.header.metadata.keys()


def test_without_our_key_the_folder_still_tokenizes_alike(tmp_path: Path) -> None:
    """A GGUF of another converter has no layout key; the parts are written by llama.cpp's rules."""
    for name in ("llama", "llama-bpe", "gemma3"):
        folder = tiny.MODELS[name](tmp_path / name)
        gguf, back = tmp_path / f"{name}.gguf", tmp_path / f"{name}-back"
        convert(folder, gguf, dtype="f32")
        data = gguf.read_bytes()
        assert data.count(b"edgellm.tokenizer.layout") == 1
        gguf.write_bytes(data.replace(b"edgellm.tokenizer.layout", b"edgellm.tokenizer.ignore"))
        convert(gguf, back)
        assert_same_tokens(folder, gguf, back, TEXTS + random_texts())


def test_a_quantized_vector_is_copied_as_it_is(tmp_path: Path) -> None:
    blocks = np.arange(68, dtype=np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("v.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    convert(tmp_path / "x.gguf", tmp_path / "y.gguf")
    with GGUFCheckpoint(tmp_path / "y.gguf") as checkpoint:
        assert checkpoint.header.tensors[0].shape == (64,)
        assert np.array_equal(checkpoint.raw("v.weight").ravel(), blocks)


def test_a_double_beyond_float32_is_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf", dtype="F64")
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-8:] = np.float64(1e300).tobytes()
    file.write_bytes(data)
    with pytest.raises(errors.NotFiniteError, match="1 value is NaN or infinite"):
        convert(folder, tmp_path / "x.gguf")


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64"])
def test_other_dtypes_keep_their_values(dtype: str, tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf", dtype=dtype, bias=True)
    result = convert(folder, tmp_path / "x.gguf")
    kind = "F32" if dtype == "F64" else dtype
    assert result.types[kind] >= 16  # matrices as they were, vectors in float32
    convert(tmp_path / "x.gguf", tmp_path / "back")
    assert_same_tensors(tiny.read_safetensors(folder), tiny.read_safetensors(tmp_path / "back"))
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    names = {"F16": "float16", "BF16": "bfloat16", "F64": "float32"}
    assert config["torch_dtype"] == names[dtype]


def test_shards_and_slabs_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgellm_converters import streams

    folder = tiny.llama(tmp_path / "hf")
    whole = convert(folder, tmp_path / "whole.gguf", recipe="Q8_0").sha256
    monkeypatch.setattr(streams, "SLAB_VALUES", 700)
    assert convert(folder, tmp_path / "slabs.gguf", recipe="Q8_0", threads=1).sha256 == whole
    # The same tensors in two files with an index.
    tensors = tiny.read_safetensors(folder)
    names = list(tensors)
    places = {}
    for number, part in enumerate((names[:9], names[9:]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        tiny.write_safetensors(folder / file, {name: tensors[name] for name in part})
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert convert(folder, tmp_path / "shards.gguf", recipe="Q8_0").sha256 == whole


@pytest.mark.parametrize("recipe", ["Q8_0", "Q4_K_M", "Q5_0"])
def test_a_quantized_file_is_the_one_of_llama_cpp(recipe: str, tmp_path: Path) -> None:
    import ctypes

    import llama_cpp

    from edgellm_quant.recipes import get_recipe

    folder = tiny.llama(tmp_path / "hf", hidden=256, feed_forward=288)
    convert(folder, tmp_path / "f32.gguf", dtype="f32")
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    convert(tmp_path / "f32.gguf", ours, recipe=recipe)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = get_recipe(recipe).file_type, 2
    source = str(tmp_path / "f32.gguf").encode()
    assert llama_cpp.llama_model_quantize(source, str(theirs).encode(), ctypes.byref(params)) == 0
    with GGUFCheckpoint(ours) as first, GGUFCheckpoint(theirs) as second:
        assert sorted(first.names) == sorted(second.names)
        for name in first.names:
            assert first.info(name).format == second.info(name).format, name
            assert first.raw(name).tobytes() == second.raw(name).tobytes(), name
        ours_only = {"edgellm.quantization", "edgellm.source"}
        keys = first.header.metadata.keys() | second.header.metadata.keys()
        for key in keys - ours_only:
            assert first.header.metadata[key] == second.header.metadata[key], key
            assert first.header.value_types[key] == second.header.value_types[key], key


# -- real models ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stories260K-hf", "stories15M-hf-f16"])
def test_real_checkpoints_there_and_back(
    name: str, shared: Path, real_texts: list[str], tmp_path: Path
) -> None:
    folder = shared / "models" / name
    convert(folder, tmp_path / "x.gguf", dtype="f32")
    convert(tmp_path / "x.gguf", tmp_path / "back")
    before, after = tiny.read_safetensors(folder), tiny.read_safetensors(tmp_path / "back")
    assert_same_tensors(before, after)
    assert_same_tokens(folder, tmp_path / "x.gguf", tmp_path / "back", real_texts)
    words = [
        json.loads((f / "tokenizer.json").read_text())["model"] for f in (folder, tmp_path / "back")
    ]
    assert words[0]["vocab"] == words[1]["vocab"]
    merges = [[m.split(" ") if isinstance(m, str) else m for m in w["merges"]] for w in words]
    assert merges[0] == merges[1]


def test_greedy_text_of_a_real_model_is_the_reference_s(shared: Path, tmp_path: Path) -> None:
    folder = shared / "models" / "stories260K-hf"
    convert(folder, tmp_path / "x.gguf", dtype="f32")
    with opened(tmp_path / "x.gguf") as model:
        prompt = model.tokenize("Once upon a time")
        assert model.greedy(prompt, 64) == Reference(folder).greedy(prompt, 64)


# -- what "the same" means ------------------------------------------------------------------------


def assert_same_tensors(first: tiny.Tensors, second: tiny.Tensors) -> None:
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.shape == second[name].shape, name
        assert np.array_equal(array.view(np.uint32), second[name].view(np.uint32)), name


def assert_same_tokens(folder: Path, gguf: Path, back: Path, texts: list[str]) -> None:
    original, rebuilt = (
        Tokenizer.from_file(str(each / "tokenizer.json")) for each in (folder, back)
    )
    with opened(gguf, vocab_only=True) as model:
        for text in texts:
            ids = original.encode(text).ids
            assert rebuilt.encode(text).ids == ids, text[:200]
            assert rebuilt.decode(ids) == original.decode(ids)
            assert model.tokenize(text) == ids, text[:200]
