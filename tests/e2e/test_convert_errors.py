"""What goes wrong gives one sentence that names the file and the value, and leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny
from edgellm_converters import errors
from edgellm_converters.pipeline import convert
from edgellm_converters.writers.atomic import atomic_file, atomic_folder, require_space
from edgellm_converters.writers.hashing import HashingFile
from edgellm_quant import errors as quant_errors

Change = Callable[[Path], object]


def edit(name: str, **changes: object) -> Change:
    """Change values of a JSON file; None takes the key away."""

    def change(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        for key, new in changes.items():
            value[key] = new
            if new is None:
                del value[key]
        (folder / name).write_text(json.dumps(value))

    return change


def model(**changes: object) -> Change:
    """Change values of the model of tokenizer.json."""

    def change(folder: Path) -> None:
        value = json.loads((folder / "tokenizer.json").read_text())
        value["model"] |= changes
        (folder / "tokenizer.json").write_text(json.dumps(value))

    return change


def tensors(change: Callable[[tiny.Tensors], object]) -> Change:
    def apply(folder: Path) -> None:
        found = tiny.read_safetensors(folder)
        change(found)
        tiny.write_safetensors(folder / "model.safetensors", found)

    return apply


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


NORM = "model.norm.weight"
CASES: dict[str, tuple[Change, type[errors.ConvertersError], list[str]]] = {
    "no config": (
        lambda f: (f / "config.json").unlink(),
        errors.SourceNotFoundError,
        ["config.json"],
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        errors.SourceNotFoundError,
        ["model.safetensors"],
    ),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        errors.SourceNotFoundError,
        ["tokenizer.json"],
    ),
    "config is no JSON": (
        lambda f: (f / "config.json").write_text("{"),
        errors.ConfigError,
        ["config.json", "no JSON"],
    ),
    "deep JSON": (
        lambda f: (f / "config.json").write_text("[" * 100_000),
        errors.ConfigError,
        ["config.json"],
    ),
    "unknown architecture": (
        edit("config.json", architectures=["MambaForCausalLM"]),
        errors.UnsupportedError,
        ["MambaForCausalLM", "config.json"],
    ),
    "no architecture": (
        edit("config.json", architectures=None),
        errors.ConfigError,
        ["architectures"],
    ),
    "text for a number": (
        edit("config.json", hidden_size="64"),
        errors.ConfigError,
        ["hidden_size", "'64'"],
    ),
    "negative size": (
        edit("config.json", num_hidden_layers=-1),
        errors.ConfigError,
        ["num_hidden_layers", "-1"],
    ),
    "too many layers": (edit("config.json", num_hidden_layers=513), errors.ConfigError, ["513"]),
    "infinite epsilon": (
        edit("config.json", rms_norm_eps=float("inf")),
        errors.ConfigError,
        ["rms_norm_eps"],
    ),
    "other activation": (
        edit("config.json", hidden_act="gelu"),
        errors.UnsupportedError,
        ["gelu"],
    ),
    "unknown rope": (
        edit("config.json", rope_scaling={"rope_type": "dynamic", "factor": 2}),
        errors.UnsupportedError,
        ["dynamic"],
    ),
    "quantized checkpoint": (
        edit("config.json", quantization_config={"quant_method": "gptq"}),
        errors.UnsupportedError,
        ["quantization_config"],
    ),
    "shorter weights": (cut, errors.CorruptFileError, ["model.safetensors"]),
    "missing tensor": (
        tensors(lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
        errors.IncompletePlanError,
        ["1 tensor is missing", "model.layers.1.mlp.up_proj.weight"],
    ),
    "extra tensor": (
        tensors(lambda t: t.update({"model.extra.weight": t[NORM]})),
        errors.IncompletePlanError,
        ["model.extra.weight"],
    ),
    "wrong shape": (
        tensors(lambda t: t.update({NORM: t[NORM][:-1]})),
        errors.IncompletePlanError,
        [NORM, "[63]", "[64]"],
    ),
    "more tokens than rows": (
        tensors(lambda t: None),
        errors.ConfigError,
        ["beyond", "tokenizer.json"],
    ),
    "unigram tokenizer": (model(type="Unigram"), errors.UnsupportedError, ["Unigram"]),
    "dropout": (model(dropout=0.1), errors.UnsupportedError, ["dropout"]),
    "merge of no tokens": (model(merges=[["x", "yz"]]), errors.ConfigError, ["'x' + 'yz'"]),
    "merge of three": (model(merges=["a b c"]), errors.ConfigError, ["a b c"]),
    "merges not all there": (model(merges=[["h", "e"]]), errors.UnsupportedError, ["merge"]),
    "unknown normalizer": (
        edit("tokenizer.json", normalizer={"type": "NFKC"}),
        errors.UnsupportedError,
        ["NFKC"],
    ),
    "unknown post-processor": (
        edit("tokenizer.json", post_processor={"type": "BertProcessing"}),
        errors.UnsupportedError,
        ["BertProcessing"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_broken_folder_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    change, kind, words = CASES[case]
    folder = tiny.llama(tmp_path / "hf")
    if case == "more tokens than rows":
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        tokenizer["model"]["vocab"]["far away"] = 10_000
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    change(folder)
    with pytest.raises(kind) as caught:
        convert(folder, tmp_path / "x.gguf")
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    assert len(message) < 500
    for word in words:
        assert word in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]


def test_unknown_pre_tokenizers_say_what_to_add(tmp_path: Path) -> None:
    odd = [{"type": "Whitespace"}, tiny.BYTE_LEVEL]
    folder = tiny.llama(tmp_path / "hf", tokenizer=tiny.byte_level(odd), settings=tiny.SETTINGS_BPE)
    with pytest.raises(errors.UnsupportedError, match="Whitespace") as caught:
        convert(folder, tmp_path / "x.gguf")
    assert caught.value.hint is not None
    assert "pretokenizers.py" in caught.value.hint


def test_a_wrong_path_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(errors.SourceNotFoundError, match="nowhere"):
        convert(tmp_path / "nowhere", tmp_path / "x.gguf")


# -- targets --------------------------------------------------------------------------------------


def test_an_existing_target_stays_unless_forced(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf")
    target = tmp_path / "x.gguf"
    target.write_text("mine")
    with pytest.raises(errors.OutputError, match="exists already"):
        convert(folder, target)
    assert target.read_text() == "mine"
    convert(folder, target, force=True)
    assert target.read_bytes()[:4] == b"GGUF"
    back = tmp_path / "back"
    convert(target, back)
    with pytest.raises(errors.OutputError, match="exists already"):
        convert(target, back)
    first = (back / "model.safetensors").stat().st_ino
    convert(target, back, force=True)
    assert (back / "model.safetensors").stat().st_ino != first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "hf", "x.gguf"]


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    convert(tiny.llama(tmp_path / "hf"), tmp_path / "x.gguf")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.odt").write_text("years of work")
    with pytest.raises(errors.OutputError, match=r"thesis\.odt"):
        convert(tmp_path / "x.gguf", tmp_path / "home", force=True)
    assert (tmp_path / "home" / "thesis.odt").read_text() == "years of work"


def test_targets_of_the_wrong_kind(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf")
    convert(folder, tmp_path / "x.gguf")
    with pytest.raises(errors.OutputError, match="does not exist"):
        convert(folder, tmp_path / "missing" / "y.gguf")
    with pytest.raises(errors.OutputError, match="is a folder"):
        convert(folder, tmp_path, to="gguf", force=True)
    with pytest.raises(errors.OutputError, match="is a file"):
        convert(tmp_path / "x.gguf", tmp_path / "hf" / "config.json", to="hf", force=True)
    with pytest.raises(errors.OutputError, match="source"):
        convert(tmp_path / "x.gguf", tmp_path / "x.gguf", recipe="Q8_0", force=True)


def test_quantized_sources_need_the_wish(tmp_path: Path) -> None:
    convert(tiny.llama(tmp_path / "hf"), tmp_path / "q.gguf", dtype="q8_0")
    with pytest.raises(errors.RequantizeError, match="Q8_0") as caught:
        convert(tmp_path / "q.gguf", tmp_path / "q4.gguf", recipe="Q4_0")
    assert caught.value.hint is not None
    assert "--requantize" in caught.value.hint
    result = convert(tmp_path / "q.gguf", tmp_path / "q4.gguf", recipe="Q4_0", requantize=True)
    assert result.types["Q4_0"] > 0


def test_values_that_a_type_cannot_hold_name_the_tensor(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf")
    tensors(lambda t: t["model.layers.0.mlp.up_proj.weight"].__setitem__((3, 5), 1e9))(folder)
    with pytest.raises(quant_errors.ValueRangeError, match=r"layers\.0\.mlp\.up_proj\.weight"):
        convert(folder, tmp_path / "x.gguf", dtype="f16")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf"]


# -- full disks and interruptions -----------------------------------------------------------------


def test_what_the_disk_cannot_hold_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(errors.OutputError, match="not enough room"):
        require_space(tmp_path / "x.gguf", 1 << 60)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    for atomic, name in ((atomic_file, "x.gguf"), (atomic_folder, "folder")):
        with (
            pytest.raises(errors.OutputError, match="not enough room"),
            atomic(tmp_path / name, force=False),
            HashingFile(Path("/dev/full").open("wb", buffering=0)) as file,
        ):
            file.write(b"data")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("back", [False, True])
def test_an_interrupted_conversion_leaves_nothing(back: bool, tmp_path: Path) -> None:
    source = tiny.llama(tmp_path / "hf")
    target = tmp_path / "y.gguf"
    if back:
        convert(source, tmp_path / "x.gguf")
        source, target = tmp_path / "x.gguf", tmp_path / "y"
    before = sorted(tmp_path.iterdir())

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            assert len(list(tmp_path.iterdir())) == len(before) + 1  # it had begun
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, target, progress=interrupt)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_command_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf")
    code = (
        "import sys, time\n"
        "from edgellm.cli.main import run\n"
        "from edgellm.cli.progress import ProgressBar\n"
        "ProgressBar.__call__ = lambda self, done, total: time.sleep(0.2)\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", code, "convert", str(folder), "-o", str(tmp_path / "x.gguf")]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".*.partial")) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(number)
    _, words = child.communicate(timeout=30)
    assert child.returncode == 130
    assert words == "edgellm: interrupted\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf"]
