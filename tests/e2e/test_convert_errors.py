"""What goes wrong gives one sentence that names the file and the value, and leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tiny
import tiny_tokenizers
from edgellm_converters import errors
from edgellm_converters.pipeline import convert
from edgellm_converters.writers import atomic
from edgellm_converters.writers.atomic import atomic_file, atomic_folder, require_space
from edgellm_converters.writers.hashing import HashingFile
from edgellm_quant import errors as quant_errors
from llama_model import opened

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
        edit("config.json", quantization_config={"quant_method": "bitsandbytes"}),
        errors.UnsupportedError,
        ["quantization_config", "bitsandbytes"],
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
    "more merges than tokens allow": (
        model(merges=["a b"] * 5000),
        errors.ConfigError,
        ["5000 merges"],
    ),
    "a theta that float32 cannot hold": (
        edit("config.json", rope_theta=1e300),
        errors.ConfigError,
        ["rope_theta"],
    ),
    "an epsilon that float32 cannot hold": (
        edit("config.json", rms_norm_eps=1e-300),
        errors.ConfigError,
        ["rms_norm_eps"],
    ),
    "an architecture's name without end": (
        edit("config.json", architectures=["L" * 10_000]),
        errors.UnsupportedError,
        ["LLLL"],
    ),
    "an output matrix of its own in a tied model": (
        edit("config.json", tie_word_embeddings=True),
        errors.ConfigError,
        ["tie_word_embeddings", "lm_head.weight"],
    ),
    "more rows than any vocabulary": (
        edit("config.json", vocab_size=2**20),
        errors.ConfigError,
        ["1048576"],
    ),
    "a larger head than any": (edit("config.json", head_dim=2**20), errors.ConfigError, ["head"]),
    "JSON of a gigabyte": (
        lambda f: os.truncate(f / "config.json", 1 << 30),
        errors.ConfigError,
        ["config.json", "1073741824 bytes"],
    ),
    "JSON of a million objects": (
        lambda f: (f / "config.json").write_text('{"a": [' + "{}," * 10**6 + "{}]}"),
        errors.ConfigError,
        ["more values"],
    ),
    "deep but closed JSON": (
        lambda f: (f / "config.json").write_text('{"a": ' + "[" * 90 + "]" * 90 + "}"),
        errors.ConfigError,
        ["nested"],
    ),
    "a number of many digits": (
        lambda f: (f / "config.json").write_text('{"hidden_size": ' + "9" * 5000 + "}"),
        errors.ConfigError,
        ["config.json"],
    ),
    "half of a surrogate pair": (
        edit("config.json", _name_or_path="\ud800"),
        errors.ConfigError,
        ["surrogate"],
    ),
    "a token that is cut everywhere": (
        model(vocab={"a" * 300_000: 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}}),
        errors.ConfigError,
        ["300000 characters"],
    ),
    "a chat template that is no text": (
        lambda f: (f / "chat_template.jinja").write_bytes(b"\xff"),
        errors.ConfigError,
        ["chat_template.jinja", "UTF-8"],
    ),
    "unigram without pieces": (model(type="Unigram"), errors.ConfigError, ["pieces"]),
    "unknown tokenizer": (model(type="WordLevel"), errors.UnsupportedError, ["WordLevel"]),
    "dropout": (model(dropout=0.1), errors.UnsupportedError, ["dropout"]),
    "merge of no tokens": (model(merges=[["x", "yz"]]), errors.ConfigError, ["'x' + 'yz'"]),
    "merge of three": (model(merges=["a b c"]), errors.ConfigError, ["a b c"]),
    "merges not all there": (model(merges=[["h", "e"]]), errors.UnsupportedError, ["merge"]),
    "unknown normalizer": (
        edit("tokenizer.json", normalizer={"type": "NFKC"}),
        errors.UnsupportedError,
        ["NFKC"],
    ),
    "an end that is no token": (
        edit("tokenizer.json", post_processor={"type": "BertProcessing", "cls": ["<s>", 1]}),
        errors.ConfigError,
        ["post_processor adds None"],
    ),
    "unknown post-processor": (
        edit("tokenizer.json", post_processor={"type": "PairProcessing"}),
        errors.UnsupportedError,
        ["PairProcessing"],
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


def test_an_older_form_of_the_tokenizer_is_named(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf")
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    with pytest.raises(errors.SourceNotFoundError, match=r"no tokenizer\.json") as caught:
        convert(folder, tmp_path / "x.gguf")
    assert "vocab.json" in str(caught.value.hint)
    (folder / "vocab.json").rename(folder / "tokenizer.model")  # as Llama 3's is no SentencePiece's
    with pytest.raises(errors.CorruptFileError, match="no SentencePiece model") as caught:
        convert(folder, tmp_path / "x.gguf")
    assert "AutoTokenizer" in str(caught.value.hint)


@pytest.mark.parametrize("to", ["hf", "mlx"])
def test_a_folder_without_a_tokenizer_gives_one_and_says_so(to: str, tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf")
    assert convert(folder, tmp_path / "with", to=to).notes == ()
    (folder / "tokenizer.json").unlink()
    (note,) = convert(folder, tmp_path / "without", to=to).notes
    assert "without a tokenizer" in note


def test_a_folder_with_sentencepiece_s_own_file_alone(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf")
    convert(folder, tmp_path / "x.gguf")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(tiny_tokenizers.bpe_model())
    convert(folder, tmp_path / "y.gguf")
    with opened(tmp_path / "x.gguf") as first, opened(tmp_path / "y.gguf") as second:
        ids = first.tokenize("the cat sat on the mat سلام")
        assert second.tokenize("the cat sat on the mat سلام") == ids
        assert second.greedy(ids, 8) == first.greedy(ids, 8)


def test_a_copy_of_the_embedding_in_a_tied_model_is_left_out(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "hf", tied=True)
    whole = convert(folder, tmp_path / "x.gguf").sha256
    tensors(lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"]}))(folder)
    assert convert(folder, tmp_path / "y.gguf").sha256 == whole


def test_a_gguf_without_an_architecture_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 0))
    for target in ("y.gguf", "y"):
        with pytest.raises(errors.CorruptFileError, match=r"no general\.architecture"):
            convert(tmp_path / "x.gguf", tmp_path / target)


@pytest.mark.parametrize("name", [b"", b"a" * 65])
def test_a_gguf_with_an_odd_architecture_is_corrupt(name: bytes, tmp_path: Path) -> None:
    key = b"general.architecture"
    head = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q", len(key)) + key
    (tmp_path / "x.gguf").write_bytes(head + struct.pack("<IQ", 8, len(name)) + name)
    with pytest.raises(errors.CorruptFileError, match="not a short name"):
        convert(tmp_path / "x.gguf", tmp_path / "y.gguf", recipe="Q4_0")


def test_a_gguf_without_tensors_has_no_bits_per_weight(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert convert(tmp_path / "x.gguf", tmp_path / "y.gguf", recipe="Q4_0").bits_per_weight == 0


def test_whole_numbers_cannot_be_quantized(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("blk.0.ffn_up.weight", np.zeros((4, 32), np.int32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(errors.UnsupportedError, match=r"ffn_up\.weight: .*I32"):
        convert(tmp_path / "x.gguf", tmp_path / "y.gguf", recipe="Q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


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


@pytest.mark.parametrize("in_one_step", [True, False])
def test_the_old_folder_is_never_lost(
    in_one_step: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system cannot exchange names there are two renames, and the second may fail."""
    if not in_one_step:
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    target = tmp_path / "model"
    target.mkdir()
    (target / "config.json").write_text("old")
    (tmp_path / "link").symlink_to(target)
    with atomic_folder(tmp_path / "link", force=True) as folder:
        (folder / "config.json").write_text("new")
    assert (target / "config.json").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "model"]
    assert (tmp_path / "link").is_symlink()
    replace = Path.replace

    def fail(self: Path, to: Path) -> Path:
        if self.suffix == ".partial":
            raise OSError("no")
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", fail)
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    with pytest.raises(errors.OutputError), atomic_folder(target, force=True) as folder:
        (folder / "config.json").write_text("newer")
    assert (target / "config.json").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "model"]


def test_names_of_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.llama(tmp_path / "hf")
    convert(folder, tmp_path / ("n" * 250 + ".gguf"))  # as long as a name may be
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in (".", "..", "-"):
        with pytest.raises(errors.OutputError, match="a name is needed"):
            convert(next(tmp_path.glob("n*.gguf")), Path(name))


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


def test_a_folder_that_cannot_be_written_is_said_before_its_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # as on a disk mounted for reading alone
    with pytest.raises(errors.OutputError, match="cannot be written"):
        require_space(tmp_path / "x.gguf", 1 << 60)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    for target, name in ((atomic_file, "x.gguf"), (atomic_folder, "folder")):
        with (
            pytest.raises(errors.OutputError, match="not enough room"),
            target(tmp_path / name, force=False),
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
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
