"""MLX folders, written and read without mlx: numpy unpacks the codes by their description.

What mlx itself makes of them is in `oracle/test_mlx.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from edgellm_converters import errors
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.pipeline import convert
from edgellm_quant.mlx_recipes import MLXRecipe

MODELS = (
    *("llama-bpe", "gemma3", "qwen2-tied-yarn"),
    # Transposed, cut by head and by group, its embedding written twice, norms of single heads.
    *("gpt2", "gptneox", "internlm2", "minicpm", "stablelm-head-norms"),
)


def raw(folder: Path) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]:
    """The tensors of a folder as stored, bf16 as its bits, and the metadata of the files."""
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    marks = header.pop("__metadata__", {})
    kinds = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U32": "<u4", "U8": "u1"}
    found = {}
    for name, info in header.items():
        start, stop = (8 + size + at for at in info["data_offsets"])
        found[name] = np.frombuffer(data[start:stop], kinds[info["dtype"]]).reshape(info["shape"])
    return found, marks


def unpacked(words: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """Codes of rows: one stream of bits, least significant first."""
    stream = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")
    places = stream.reshape(*words.shape[:-1], -1, bits)
    return (places * (1 << np.arange(bits))).sum(axis=-1).astype(np.float32)


def decoded(
    tensors: dict[str, np.ndarray[Any, Any]], module: str, bits: int, group: int
) -> np.ndarray[Any, Any]:
    codes = unpacked(tensors[f"{module}.weight"], bits)
    scales = np.repeat(tensors[f"{module}.scales"].astype(np.float32), group, axis=-1)
    biases = np.repeat(tensors[f"{module}.biases"].astype(np.float32), group, axis=-1)
    return codes * scales + biases


@pytest.mark.parametrize("name", MODELS)
def test_a_float_folder_comes_back_with_its_tokenizer(name: str, tmp_path: Path) -> None:
    folder = tiny.MODELS[name](tmp_path / "hf")
    convert(folder, tmp_path / "there.mlx")
    convert(tmp_path / "there.mlx", tmp_path / "back")
    _, marks = raw(tmp_path / "there.mlx")
    assert marks["format"] == "mlx"
    first, second = (tiny.read_safetensors(each) for each in (folder, tmp_path / "back"))
    assert first.keys() == second.keys()
    assert all(np.array_equal(values, second[tensor]) for tensor, values in first.items())
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "back" / file).read_bytes() == (folder / file).read_bytes()
    before, after = (
        json.loads((each / "config.json").read_text()) for each in (folder, tmp_path / "back")
    )
    # InternLM2's dynamic scaling, which begins beyond the context, is left out.
    kept = [key for key in before if (name, key) != ("internlm2", "rope_scaling")]
    assert {key: after.get(key) for key in kept} == {key: before[key] for key in kept}


def test_named_chat_templates_are_taken_over_and_may_be_replaced(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf")
    more = folder / "additional_chat_templates"
    more.mkdir()
    (more / "tools.jinja").write_text("{{ tools }}")
    (more / "notes.txt").write_text("not a template")
    convert(folder, tmp_path / "x-mlx")
    copied = tmp_path / "x-mlx" / "additional_chat_templates"
    assert [file.name for file in copied.iterdir()] == ["tools.jinja"]
    convert(folder, tmp_path / "x-mlx", force=True)
    (copied / "mine.txt").write_text("kept")
    with pytest.raises(errors.OutputError, match="additional_chat_templates"):
        convert(folder, tmp_path / "x-mlx", force=True)
    assert (copied / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize("recipe", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"])
def test_blocks_of_gguf_stand_for_the_same_values_in_mlx(recipe: str, tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf")
    convert(folder, tmp_path / "x.gguf", recipe=recipe)
    result = convert(tmp_path / "x.gguf", tmp_path / "x-mlx")
    assert {(repack.how, repack.error) for repack in result.repacks} == {("exact", 0.0)}
    tensors, _ = raw(tmp_path / "x-mlx")
    config = json.loads((tmp_path / "x-mlx" / "config.json").read_text())
    usual = config["quantization"]
    assert config["quantization_config"] == usual
    checked = 0
    with GGUFCheckpoint(tmp_path / "x.gguf") as gguf:
        for layer in range(2):
            for theirs, ours in (
                ("attn_v", "self_attn.v_proj"),
                ("ffn_down", "mlp.down_proj"),
                ("ffn_gate", "mlp.gate_proj"),
            ):
                module = f"model.layers.{layer}.{ours}"
                own = usual.get(module, usual)
                found = decoded(tensors, module, own["bits"], own["group_size"])
                wanted = gguf.load(f"blk.{layer}.{theirs}.weight")
                assert np.array_equal(found, wanted), module
                checked += 1
    assert checked == 6


@pytest.mark.parametrize("recipe", ["Q4_1", "Q5_1", "Q8_0"])
def test_the_way_there_and_back_gives_the_same_bytes(recipe: str, tmp_path: Path) -> None:
    convert(tiny.llama(tmp_path / "hf"), tmp_path / "x.gguf", recipe=recipe)
    convert(tmp_path / "x.gguf", tmp_path / "x-mlx")
    convert(tmp_path / "x-mlx", tmp_path / "back.gguf")
    with GGUFCheckpoint(tmp_path / "x.gguf") as one, GGUFCheckpoint(tmp_path / "back.gguf") as two:
        assert set(one.names) == set(two.names)
        for tensor in one.names:
            if one.info(tensor).format.is_quantized:
                assert one.info(tensor).format == two.info(tensor).format, tensor
                assert np.array_equal(one.raw(tensor), two.raw(tensor)), tensor
        assert one.header.metadata["general.file_type"] == two.header.metadata["general.file_type"]


def test_the_default_model_goes_there_and_back(smollm2: Path, tmp_path: Path) -> None:
    result = convert(smollm2, tmp_path / "x-mlx")
    assert {repack.how for repack in result.repacks} == {"exact"}
    convert(tmp_path / "x-mlx", tmp_path / "back.gguf")
    with GGUFCheckpoint(smollm2) as one, GGUFCheckpoint(tmp_path / "back.gguf") as two:
        for tensor in one.names:
            if one.info(tensor).format.is_quantized:
                assert np.array_equal(one.raw(tensor), two.raw(tensor)), tensor


def test_what_can_only_be_quantized_anew_is_said(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf", hidden=256, head_dim=64, feed_forward=256)
    convert(folder, tmp_path / "x.gguf", recipe="Q4_K_M")
    result = convert(tmp_path / "x.gguf", tmp_path / "x-mlx")
    ways = {(repack.source, repack.used): repack for repack in result.repacks}
    assert ways["Q4_K", "MLX4G32"].how == "near"
    assert 0 < ways["Q4_K", "MLX4G32"].error < 0.01
    assert ways["Q6_K", "MLX8G32"].how == "requantized"


def test_quantizing_gives_the_head_more_bits_and_rows_the_groups_that_fit(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf", feed_forward=96)
    result = convert(folder, tmp_path / "x-mlx", mlx=MLXRecipe(3, 64))
    config = json.loads((tmp_path / "x-mlx" / "config.json").read_text())["quantization"]
    assert {key: config[key] for key in ("bits", "group_size", "mode")} == {
        "bits": 3,
        "group_size": 64,
        "mode": "affine",
    }
    assert config["lm_head"]["bits"] == 6
    assert config["model.layers.0.mlp.down_proj"] == {"bits": 3, "group_size": 32, "mode": "affine"}
    assert "model.layers.0.mlp.up_proj" not in config
    (fallback, *_) = result.fallbacks
    assert "96 columns are no multiple of 64" in fallback.reason
    assert result.recipe == "MLX3G64"


def test_rows_that_no_group_divides_stay_dense_and_are_named(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf", feed_forward=80)
    result = convert(folder, tmp_path / "x-mlx", mlx=MLXRecipe(4, 32))
    config = json.loads((tmp_path / "x-mlx" / "config.json").read_text())["quantization"]
    assert config["model.layers.1.mlp.down_proj"] is False
    assert {fallback.used for fallback in result.fallbacks} == {"F32"}


def test_a_second_quantization_needs_a_word(tmp_path: Path) -> None:
    convert(tiny.llama(tmp_path / "hf"), tmp_path / "x.gguf", recipe="Q8_0")
    with pytest.raises(errors.RequantizeError, match="quantized already"):
        convert(tmp_path / "x.gguf", tmp_path / "x-mlx", mlx=MLXRecipe(4, 32))
    convert(tmp_path / "x.gguf", tmp_path / "x-mlx", mlx=MLXRecipe(4, 32), requantize=True)
    with pytest.raises(errors.RequantizeError, match="quantized already"):
        convert(tmp_path / "x-mlx", tmp_path / "y.gguf", recipe="Q5_1")


def test_a_folder_of_mlx_becomes_the_values_that_it_stands_for(tmp_path: Path) -> None:
    convert(tiny.llama(tmp_path / "hf"), tmp_path / "x-mlx", mlx=MLXRecipe(5, 32))
    convert(tmp_path / "x-mlx", tmp_path / "back")
    tensors, _ = raw(tmp_path / "x-mlx")
    values = tiny.read_safetensors(tmp_path / "back")
    module = "model.layers.1.mlp.up_proj"
    assert np.array_equal(values[f"{module}.weight"], decoded(tensors, module, 5, 32))
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert "quantization" not in config
    assert "quantization_config" not in config


@pytest.mark.parametrize("mode", ["affine", "mxfp4"])
def test_a_copy_keeps_the_float_type_of_the_folder(mode: str, tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf", dtype="BF16")
    convert(folder, tmp_path / "x-mlx", mlx=MLXRecipe(4, 32, mode))
    convert(tmp_path / "x-mlx", tmp_path / "y-mlx")
    first, second = (raw(tmp_path / each)[0] for each in ("x-mlx", "y-mlx"))
    assert {name: array.dtype for name, array in first.items()} == {
        name: array.dtype for name, array in second.items()
    }
    assert all(np.array_equal(array, second[name]) for name, array in first.items())


def test_a_dtype_that_is_asked_for_is_that_of_scales_too(tmp_path: Path) -> None:
    convert(tiny.llama(tmp_path / "hf"), tmp_path / "x-mlx", mlx=MLXRecipe(4, 32))
    result = convert(tmp_path / "x-mlx", tmp_path / "y-mlx", dtype="f16")
    tensors, _ = raw(tmp_path / "y-mlx")
    assert {str(array.dtype) for array in tensors.values()} == {"uint32", "float16"}
    assert {repack.how for repack in result.repacks} == {"near"}


def test_a_matrix_of_parts_in_several_formats_is_quantized_already(tmp_path: Path) -> None:
    folder = tiny.MODELS["internlm2"](tmp_path / "hf")
    convert(folder, tmp_path / "x.gguf", recipe="Q4_K_M")
    with GGUFCheckpoint(tmp_path / "x.gguf") as gguf:
        parts = {gguf.info(f"blk.1.attn_{part}.weight").format.name for part in "qkv"}
    assert parts == {"Q5_0", "Q8_0"}
    with pytest.raises(errors.RequantizeError, match="12 tensors"):
        convert(tmp_path / "x.gguf", tmp_path / "x-mlx", mlx=MLXRecipe(4, 32))
    result = convert(tmp_path / "x.gguf", tmp_path / "x-mlx")
    repacks = {repack.tensor: repack for repack in result.repacks}
    mixed = repacks["model.layers.1.attention.wqkv.weight"]
    assert (mixed.source, mixed.used, mixed.how) == ("Q5_0, Q8_0", "MLX8G32", "exact")


def test_a_module_with_settings_of_its_own_is_affine_unless_it_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "x-mlx"
    convert(tiny.llama(tmp_path / "hf"), folder, mlx=MLXRecipe(mode="mxfp4"))
    convert(folder, tmp_path / "one.gguf")
    config = json.loads((folder / "config.json").read_text())
    del config["quantization"]["lm_head"]["mode"]
    (folder / "config.json").write_text(json.dumps(config))
    convert(folder, tmp_path / "two.gguf")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


# -- damaged folders ------------------------------------------------------------------------------


def setting(**changes: object) -> Callable[[Path], None]:
    """Change what config.json says of the quantization; None takes a key away."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        for key, new in changes.items():
            config["quantization"][key] = new
            if new is None:
                del config["quantization"][key]
        (folder / "config.json").write_text(json.dumps(config))

    return change


def header(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Change the table of the tensors; the data stays."""

    def apply(folder: Path) -> None:
        file = folder / "model.safetensors"
        data = file.read_bytes()
        size = int.from_bytes(data[:8], "little")
        table = json.loads(data[8 : 8 + size])
        change(table)
        text = json.dumps(table).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])

    return apply


UP = "model.layers.0.mlp.up_proj"


def renamed(old: str, new: str) -> Callable[[Path], None]:
    def change(table: dict[str, Any]) -> None:
        table[new] = table.pop(old)

    return header(change)


def shaped(name: str, **changes: object) -> Callable[[Path], None]:
    def change(table: dict[str, Any]) -> None:
        table[name] |= changes

    return header(change)


def scalar(folder: Path) -> None:
    """Put a number and its scale in front of all tensors."""

    def change(table: dict[str, Any]) -> None:
        for info in table.values():
            if "data_offsets" in info:
                info["data_offsets"] = [at + 8 for at in info["data_offsets"]]
        table["x.weight"] = {"dtype": "U32", "shape": [], "data_offsets": [0, 4]}
        table["x.scales"] = {"dtype": "F32", "shape": [], "data_offsets": [4, 8]}

    header(change)(folder)
    file = folder / "model.safetensors"
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    file.write_bytes(data[:start] + bytes(8) + data[start:])


def no_quantization(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["quantization"]
    (folder / "config.json").write_text(json.dumps(config))


DAMAGED: dict[str, tuple[Callable[[Path], None], type[errors.ConvertersError], str]] = {
    "no scales": (
        renamed(f"{UP}.scales", f"{UP}.other"),
        errors.UnsupportedError,
        f"'{UP}.weight' is of type U32",
    ),
    "no biases": (renamed(f"{UP}.biases", "other"), errors.ConfigError, f"{UP}.biases is missing"),
    "fewer scales": (
        shaped(f"{UP}.scales", shape=[48, 4]),
        errors.ConfigError,
        f"{UP}.scales is F32 [48, 4], but the codes ask for F32 [96, 2]",
    ),
    "scales of another type": (
        shaped(f"{UP}.biases", dtype="U32"),
        errors.ConfigError,
        f"{UP}.biases is U32",
    ),
    "a weight without dimensions": (
        scalar,
        errors.ConfigError,
        "x.weight is U32 [], which",
    ),
    "bits that are not those of the codes": (setting(bits=8), errors.ConfigError, "codes ask for"),
    "bits that there are not": (setting(bits=7), errors.UnsupportedError, "of 7 bits"),
    "no bits": (setting(bits=None), errors.ConfigError, "bits is missing"),
    "bits in words": (setting(bits="4"), errors.ConfigError, "bits is '4'"),
    "an odd group": (setting(group_size=48), errors.UnsupportedError, "groups of 48"),
    "a group of nothing": (setting(group_size=0), errors.ConfigError, "group_size is 0"),
    "an unknown mode": (setting(mode="nf4"), errors.UnsupportedError, "'nf4'"),
    "settings of one module that are none": (
        setting(**{UP: [4, 32]}),
        errors.ConfigError,
        f"{UP} is [4, 32]",
    ),
    "scales without settings": (no_quantization, errors.ConfigError, "config.json has no"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_folder_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "x-mlx"
    convert(tiny.llama(tmp_path / "hf"), folder, mlx=MLXRecipe(4, 32))
    change, kind, sentence = DAMAGED[name]
    change(folder)
    with pytest.raises(kind) as caught:
        convert(folder, tmp_path / "y.gguf")
    assert sentence in str(caught.value)
    assert not (tmp_path / "y.gguf").exists()
