"""Adapter folders that are broken, lie, or hold more than LoRA: one sentence, and nothing left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adapter_folders as adapters
import tiny
from edgellm_converters import errors
from edgellm_converters.adapters.convert import convert_adapter
from edgellm_converters.architectures.base import Side
from edgellm_converters.pipeline import convert

Q = "base_model.model.model.layers.0.self_attn.q_proj"
MODULES = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"]
Change = Callable[[Path], object]


def config(**changes: Any) -> Change:
    """Change values of adapter_config.json; None takes the key away."""

    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        value = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))

    return change


def tensors(change: Callable[[tiny.Tensors], object]) -> Change:
    """Change the tensors, whatever the file is called."""

    def apply(folder: Path) -> None:
        found = tiny.read_safetensors(folder)
        change(found)
        tiny.write_safetensors(next(folder.glob("*.safetensors")), found)

    return apply


def rename(old: str, new: str) -> Change:
    return tensors(lambda t: t.update({new: t.pop(old)}))


def write(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def cut(folder: Path) -> None:
    file = next(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])


def pickled(folder: Path) -> None:
    next(folder.glob("*.safetensors")).rename(folder / "adapter_model.bin")


def leads_out(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.rename(folder.parent / "elsewhere.safetensors")
    file.symlink_to(folder.parent / "elsewhere.safetensors")


def whole_numbers(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].replace(b'"F32"', b'"I32"')
    file.write_bytes(data[:8] + header + data[8 + size :])


PEFT: dict[str, tuple[Change, type[errors.ConvertersError], list[str]]] = {
    "no configuration": (
        lambda f: (f / "adapter_config.json").unlink(),
        errors.SourceNotFoundError,
        ["adapter_config.json"],
    ),
    "no weights": (
        lambda f: (f / "adapter_model.safetensors").unlink(),
        errors.SourceNotFoundError,
        ["adapter_model.safetensors"],
    ),
    "pickled weights": (pickled, errors.UnsupportedError, ["adapter_model.bin", "runs code"]),
    "weights elsewhere": (leads_out, errors.CorruptFileError, ["leads out"]),
    "shorter weights": (cut, errors.CorruptFileError, ["adapter_model.safetensors"]),
    "no JSON": (write("adapter_config.json", b"{"), errors.ConfigError, ["no JSON"]),
    "deep JSON": (write("adapter_config.json", b"[" * 90_000), errors.ConfigError, ["config.json"]),
    "no object": (write("adapter_config.json", b"[]"), errors.ConfigError, ["no JSON object"]),
    "another type": (
        config(peft_type="IA3"),
        errors.UnsupportedError,
        ["peft_type", "'IA3'", "merge"],
    ),
    "no type": (config(peft_type=None), errors.UnsupportedError, ["peft_type is None"]),
    "DoRA": (config(use_dora=True), errors.UnsupportedError, ["DoRA", "use_dora", "merge"]),
    "whole modules": (
        config(modules_to_save=["lm_head"]),
        errors.UnsupportedError,
        ["modules_to_save", "merge"],
    ),
    "biases": (config(bias="lora_only"), errors.UnsupportedError, ["'lora_only'", "merge"]),
    "LoRA biases": (config(lora_bias=True), errors.UnsupportedError, ["lora_bias"]),
    "activated by tokens": (
        config(alora_invocation_tokens=[1, 2]),
        errors.UnsupportedError,
        ["alora_invocation_tokens"],
    ),
    "parameters": (
        config(target_parameters=["experts.down"]),
        errors.UnsupportedError,
        ["target_parameters"],
    ),
    "PiSSA": (config(init_lora_weights="pissa"), errors.UnsupportedError, ["'pissa'", "peft"]),
    "an odd beginning": (
        config(init_lora_weights={"a": 1}),
        errors.UnsupportedError,
        ["init_lora_weights"],
    ),
    "an unknown key": (config(use_new_thing=True), errors.UnsupportedError, ["use_new_thing"]),
    "no rank": (config(r=None), errors.ConfigError, ["r is missing"]),
    "rank 0": (config(r=0), errors.ConfigError, ["r is 0"]),
    "a rank of text": (config(r="4"), errors.ConfigError, ["r is '4'"]),
    "a huge rank": (config(r=2**40), errors.ConfigError, [str(2**40)]),
    "no alpha": (config(lora_alpha=None), errors.ConfigError, ["lora_alpha is missing"]),
    "alpha 0": (config(lora_alpha=0), errors.ConfigError, ["lora_alpha is 0"]),
    "infinite alpha": (config(lora_alpha=float("inf")), errors.ConfigError, ["lora_alpha"]),
    "rslora of text": (config(use_rslora="yes"), errors.ConfigError, ["use_rslora", "'yes'"]),
    "patterns of text": (config(rank_pattern="q"), errors.ConfigError, ["rank_pattern"]),
    "an expression": (
        config(alpha_pattern={"(a+)+$": 3}),
        errors.ConfigError,
        ["alpha_pattern", "(a+)+$"],
    ),
    "a pattern's rank": (
        config(rank_pattern={"q_proj": 1.5}),
        errors.ConfigError,
        ["q_proj is 1.5"],
    ),
    "another rank": (config(r=8), errors.IncompletePlanError, [f"{Q}.lora_A.weight", "rank 8"]),
    "another rank of one": (
        config(rank_pattern={"q_proj": 5}),
        errors.IncompletePlanError,
        [f"{Q}.lora_A.weight", "rank 5"],
    ),
    "half a pair": (
        tensors(lambda t: t.pop(f"{Q}.lora_A.weight")),
        errors.IncompletePlanError,
        [f"{Q}.lora_B.weight", "partner"],
    ),
    "no tensors": (tensors(lambda t: t.clear()), errors.IncompletePlanError, ["no tensors"]),
    "another tensor": (
        tensors(lambda t: t.update({"base_model.model.lm_head.weight": np.zeros((2, 2))})),
        errors.UnsupportedError,
        ["base_model.model.lm_head.weight", "merge"],
    ),
    "a magnitude of DoRA": (
        tensors(lambda t: t.update({f"{Q}.lora_magnitude_vector": np.ones(64)})),
        errors.UnsupportedError,
        ["lora_magnitude_vector"],
    ),
    "a vector": (
        tensors(lambda t: t.update({f"{Q}.lora_A.weight": np.ones(4)})),
        errors.IncompletePlanError,
        [f"{Q}.lora_A.weight", "[4]"],
    ),
    "a scalar": (
        tensors(lambda t: t.update({f"{Q}.lora_B.weight": np.ones(())})),
        errors.IncompletePlanError,
        [f"{Q}.lora_B.weight", "[]"],
    ),
    "ranks that differ": (
        tensors(lambda t: t.update({f"{Q}.lora_A.weight": np.ones((3, 64))})),
        errors.IncompletePlanError,
        [f"{Q}.lora_A.weight", "[3, 64]"],
    ),
    "another width": (
        tensors(lambda t: t.update({f"{Q}.lora_A.weight": np.ones((4, 63))})),
        errors.IncompletePlanError,
        [f"{Q}.lora_A.weight", "[64, 63]", "[64, 64]", "another base"],
    ),
    "an unknown module": (
        tensors(lambda t: [t.update({k.replace("q_proj", "w_qkv"): t.pop(k)}) for k in list(t)]),
        errors.IncompletePlanError,
        ["model.layers.0.self_attn.w_qkv", "someone/model"],
    ),
    "a layer too many": (
        tensors(lambda t: [t.update({k.replace("rs.0", "rs.2"): t.pop(k)}) for k in list(t)]),
        errors.IncompletePlanError,
        ["model.layers.2.self_attn.q_proj"],
    ),
    "another prefix": (
        tensors(lambda t: [t.update({k.replace("base_", ""): t.pop(k)}) for k in list(t)]),
        errors.UnsupportedError,
        ["base_model.model."],
    ),
    "an embedding that is none": (
        tensors(
            lambda t: t.update(
                {f"{Q}.lora_embedding_{x}": t.pop(f"{Q}.lora_{x}.weight") for x in "AB"}
            )
        ),
        errors.IncompletePlanError,
        [f"{Q}.lora_embedding_A is for an embedding", "is none"],
    ),
    "an embedding that is one": (
        tensors(
            lambda t: t.update(
                {
                    "base_model.model.model.embed_tokens.lora_A.weight": np.ones((4, 64)),
                    "base_model.model.model.embed_tokens.lora_B.weight": np.ones((356, 4)),
                }
            )
        ),
        errors.IncompletePlanError,
        ["embed_tokens.lora_A.weight is not for an embedding", "is one"],
    ),
    "not a number": (
        tensors(lambda t: t[f"{Q}.lora_B.weight"].__setitem__((1, 1), np.nan)),
        errors.NotFiniteError,
        [f"{Q}.lora_B.weight", "NaN"],
    ),
    "whole numbers": (whole_numbers, errors.UnsupportedError, ["I32"]),
}

MLX: dict[str, tuple[Change, type[errors.ConvertersError], list[str]]] = {
    "DoRA": (config(fine_tune_type="dora"), errors.UnsupportedError, ["'dora'", "mlx_lm.fuse"]),
    "full": (config(fine_tune_type="full"), errors.UnsupportedError, ["'full'"]),
    "no parameters": (config(lora_parameters=None), errors.ConfigError, ["lora_parameters"]),
    "no scale": (config(lora_parameters={"rank": 4}), errors.ConfigError, ["scale is missing"]),
    "another rank": (
        config(lora_parameters={"rank": 5, "scale": 1}),
        errors.IncompletePlanError,
        ["q_proj.lora_a", "rank 5", "[64, 4]"],
    ),
    "a stack and none": (
        tensors(lambda t: t.update({f"{MODULES[0]}.lora_a": np.ones((2, 4, 64))})),
        errors.IncompletePlanError,
        [f"{MODULES[0]}.lora_a"],
    ),
    "a stack": (
        tensors(
            lambda t: t.update(
                {
                    f"{MODULES[0]}.lora_a": np.ones((2, 4, 64)),
                    f"{MODULES[0]}.lora_b": np.ones((2, 64, 4)),
                }
            )
        ),
        errors.IncompletePlanError,
        [f"{MODULES[0]}.lora_a", "[2, 64, 64]"],
    ),
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny.llama(tmp_path / "hf")


def refused(folder: Path, base: Path, kind: type[Exception], words: list[str]) -> None:
    """Neither conversion nor merging leaves anything, and both say the same."""
    before = sorted(folder.parent.iterdir())
    for make in (
        lambda: convert_adapter(folder, base, folder.parent / "x.gguf", to=Side.GGUF),
        lambda: convert_adapter(folder, base, folder.parent / "x", to=Side.MLX),
        lambda: convert(base, folder.parent / "x.gguf", lora=folder),
    ):
        with pytest.raises(kind) as caught:
            make()
        error = caught.value
        assert isinstance(error, errors.ConvertersError)
        text = f"{error}\n{error.hint or ''}"
        assert all(word in text for word in words), text
        assert "\n" not in str(error)
        assert sorted(folder.parent.iterdir()) == before


@pytest.mark.parametrize("case", PEFT)
def test_peft_folders_that_are_refused(case: str, base: Path, tmp_path: Path) -> None:
    change, kind, words = PEFT[case]
    adapters.write_peft(tmp_path / "lora", base, MODULES)
    change(tmp_path / "lora")
    refused(tmp_path / "lora", base, kind, words)


@pytest.mark.parametrize("case", MLX)
def test_mlx_folders_that_are_refused(case: str, base: Path, tmp_path: Path) -> None:
    change, kind, words = MLX[case]
    shapes = {MODULES[0]: (64, 64), MODULES[1]: (96, 64)}
    adapters.write_mlx(tmp_path / "lora", shapes)
    change(tmp_path / "lora")
    refused(tmp_path / "lora", base, kind, words)


def test_keys_that_change_nothing_are_passed_over(base: Path, tmp_path: Path) -> None:
    adapters.write_peft(tmp_path / "lora", base, MODULES)
    config(layers_to_transform=[0, 1], exclude_modules="x", use_new_thing=False, odd={})(
        tmp_path / "lora"
    )
    convert_adapter(tmp_path / "lora", base, tmp_path / "x.gguf", to=Side.GGUF)


def test_names_in_patterns_cost_no_time(base: Path, tmp_path: Path) -> None:
    adapters.write_peft(tmp_path / "lora", base, MODULES)
    config(alpha_pattern={"a" * 60_000 + str(n): 2.0 for n in range(50)})(tmp_path / "lora")
    started = time.monotonic()
    convert_adapter(tmp_path / "lora", base, tmp_path / "x.gguf", to=Side.GGUF)
    assert time.monotonic() - started < 5


def test_tied_models(tmp_path: Path) -> None:
    """What one matrix cannot be, it is not made to be."""
    base = tiny.MODELS["llama-tied-bias"](tmp_path / "hf")
    adapters.write_peft(tmp_path / "lora", base, ["model.embed_tokens"])
    refused(tmp_path / "lora", base, errors.UnsupportedError, ["lora_embedding_A", "tie_word"])

    head = "base_model.model.lm_head.lora"
    adapters.write_peft(tmp_path / "lora", base, MODULES)
    more = {f"{head}_A.weight": np.ones((4, 64)), f"{head}_B.weight": np.ones((356, 4))}
    tensors(lambda t: t.update(more))(tmp_path / "lora")
    refused(tmp_path / "lora", base, errors.UnsupportedError, [f"{head}_A.weight", "tie_word"])

    vocabulary = json.loads((base / "config.json").read_text())["vocab_size"]
    adapters.write_mlx(tmp_path / "mlx", {"model.embed_tokens": (vocabulary, 64)})
    with pytest.raises(errors.UnsupportedError, match="output matrix too") as caught:
        convert_adapter(tmp_path / "mlx", base, tmp_path / "x.gguf", to=Side.GGUF)
    assert "--lora" in (caught.value.hint or "")


def test_what_a_program_would_pass_over_is_refused(tmp_path: Path) -> None:
    """llama.cpp looks for no adapters in DeepSeek's attention."""
    base = tiny.MODELS["deepseek-v2-lite"](tmp_path / "hf")
    for module, words in (
        ("self_attn.q_proj", ["blk.0.attn_q.weight", "llama.cpp"]),
        ("self_attn.kv_b_proj", ["blk.0.attn_k_b.weight", "stack of matrices"]),
    ):
        adapters.write_peft(tmp_path / "lora", base, [f"model.layers.0.{module}"])
        with pytest.raises(errors.UnsupportedError) as caught:
            convert_adapter(tmp_path / "lora", base, tmp_path / "x.gguf", to=Side.GGUF)
        assert all(word in str(caught.value) for word in words), caught.value
        assert "--lora" in (caught.value.hint or "")


def test_a_quantized_base_is_not_merged_into(base: Path, tmp_path: Path) -> None:
    adapters.write_peft(tmp_path / "lora", base, MODULES)
    convert(base, tmp_path / "q.gguf", dtype="q8_0")
    with pytest.raises(errors.UnsupportedError, match="Q8_0") as caught:
        convert(tmp_path / "q.gguf", tmp_path / "x.gguf", lora=tmp_path / "lora")
    assert "--dtype f32" in (caught.value.hint or "")
    # A vector that stays, and a matrix that does not change, may be anything.
    convert(tmp_path / "q.gguf", tmp_path / "f.gguf", dtype="f32")
    convert(tmp_path / "f.gguf", tmp_path / "x.gguf", lora=tmp_path / "lora")


def test_a_value_beyond_the_type_names_the_tensor(base: Path, tmp_path: Path) -> None:
    from edgellm_quant.errors import ValueRangeError

    adapters.write_peft(tmp_path / "lora", base, MODULES)
    tensors(lambda t: t[f"{Q}.lora_B.weight"].__setitem__((1, 1), 1e9))(tmp_path / "lora")
    with pytest.raises(ValueRangeError, match=r"blk\.0\.attn_q\.weight\.lora_b"):
        convert_adapter(tmp_path / "lora", base, tmp_path / "x.gguf", to=Side.GGUF, dtype="f16")
    assert not list(tmp_path.glob("*.gguf"))
