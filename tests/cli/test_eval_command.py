"""`edgellm eval` as a person or a program meets it."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import edgellm
import tiny
from edgellm.api.convert import convert
from edgellm.api.quantize import quantize
from edgellm.backends.llama_cpp.library import library
from edgellm.cli.main import run
from edgellm.errors import UsageError
from edgellm.evaluate.quality import Quality
from edgellm.evaluate.texts import read_texts
from edgellm.quantization.calibration import evaluation_texts


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    convert(tiny.llama(root / "hf"), root / "f32.gguf", dtype="f32")
    for name in ("Q4_0", "Q8_0"):
        quantize(root / "f32.gguf", root / f"{name}.gguf", name, method="rtn")
    (root / "a.txt").write_text("the quick brown fox and the lazy dog, " * 12)
    (root / "b.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "کتاب روی میز است"}, '
        '{"role": "assistant", "content": "the lazy dog and the quick brown fox"}]}\n' * 3
    )
    return root


def arguments(models: Path, *names: str) -> list[str]:
    return ["eval", *(str(models / name) for name in names), "--ctx", "32", "-t", "1"]


def test_numbers_for_programs_are_those_of_python(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [models / "a.txt", models / "b.jsonl"]
    args = arguments(models, "Q4_0.gguf", "Q8_0.gguf")
    args += ["--against", str(models / "f32.gguf"), "--json", "--seed", "4"]
    assert run([*args, "--text", str(texts[0]), "--text", str(texts[1])]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)
    result = edgellm.measure(
        [models / "Q4_0.gguf", models / "Q8_0.gguf"],
        against=models / "f32.gguf",
        texts=texts,
        context=32,
        threads=1,
        seed=4,
    )
    first, second = result.evaluations
    assert found["model"] == str(models / "Q4_0.gguf")
    assert found["reference"] == str(models / "f32.gguf")
    assert found["context"] == 32
    same_as(found, first.quality)
    assert found["models"][0] == {key: found[key] for key in found["models"][0]}
    assert [each["model"] for each in found["models"]] == [str(e.model) for e in result.evaluations]
    same_as(found["models"][1], second.quality)
    assert [each["name"] for each in found["texts"]] == ["a.txt", "b.jsonl"]
    for each, scores in zip(found["texts"], first.scores, strict=True):
        same_as(each, scores.quality)
    assert sum(each["tokens"] for each in found["texts"]) == found["tokens"]
    (compared,) = found["comparisons"]
    interval = result.comparisons[0].kld_difference
    assert compared["kld_difference"] == {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
    }
    assert compared["kld_ratio"]["value"] == pytest.approx(
        found["models"][1]["kld"]["mean"] / found["kld"]["mean"]
    )
    assert compared["log_perplexity_difference"]["value"] == pytest.approx(
        math.log(found["models"][1]["perplexity"] / found["perplexity"])
    )


def same_as(found: dict, quality: Quality) -> None:
    assert found["tokens"] == quality.tokens
    assert found["perplexity"] == quality.perplexity
    assert found["reference_perplexity"] == quality.reference_perplexity
    assert found["perplexity_ratio"] == quality.perplexity_ratio
    assert found["top1_agreement"] == quality.top1_agreement
    kld = quality.kld
    assert found["kld"] == {
        "mean": kld.mean,
        "error": kld.error,
        "median": kld.median,
        "p99": kld.p99,
        "p999": kld.p999,
        "max": kld.maximum,
    }


def test_numbers_for_people(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = arguments(models, "Q4_0.gguf", "Q8_0.gguf")
    args += ["--against", str(models / "f32.gguf"), "--text", str(models / "a.txt")]
    assert run([*args, "--text", str(models / "b.jsonl")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("context 32, ")
    assert lines[1].startswith(f"reference {models / 'f32.gguf'}: perplexity ")
    rows = [line for line in lines if re.match(r"  (a\.txt|b\.jsonl|all) ", line)]
    assert len(rows) == 6
    assert len({len(row) for row in rows}) == 1
    assert all(row.endswith(" %") for row in rows)
    assert f"{models / 'Q8_0.gguf'} against {models / 'Q4_0.gguf'}, 95 % intervals:" in lines


def test_perplexity_alone(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [*arguments(models, "f32.gguf"), "--text", str(models / "a.txt"), "--json"]
    assert run(args) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["reference"] is None
    assert found["perplexity"] > 1
    assert "kld" not in found
    assert run(args[:-1]) == 0
    assert "reference" not in capsys.readouterr().out


def test_without_a_text_the_packages_own_are_measured(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments(models, "f32.gguf"), "--max-tokens", "64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in found["texts"]] == [text.name for text in evaluation_texts()]
    assert {each["tokens"] for each in found["texts"]} == {2 * 15}


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        (["--max-kld", "1e-9"], "the mean KL divergence is "),
        (["--max-perplexity-ratio", "0.5"], "the perplexity ratio is "),
        (["--min-top1", "100"], "the top-1 agreement is "),
    ],
)
def test_a_limit_that_does_not_hold_ends_with_7(
    models: Path, capsys: pytest.CaptureFixture[str], limit: list[str], sentence: str
) -> None:
    args = arguments(models, "Q4_0.gguf")
    args += ["--against", str(models / "f32.gguf"), "--text", str(models / "a.txt"), *limit]
    assert run(args) == 7
    out, err = capsys.readouterr()
    assert "mean KLD" in out
    assert err.startswith(f"edgellm: {models / 'Q4_0.gguf'}: {sentence}")
    assert run([*args, "--json"]) == 7
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["error"]["code"] == "check_failed"
    assert sentence in found["error"]["message"]
    assert found["kld"]["mean"] > 0
    assert err.count("\n") == 1


def test_limits_that_hold(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = arguments(models, "f32.gguf")
    args += ["--against", str(models / "f32.gguf"), "--text", str(models / "a.txt")]
    assert run([*args, "--max-kld", "0", "--max-perplexity-ratio", "1", "--min-top1", "100"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("more", "status", "sentence"),
    [
        (["--text", "none.txt"], 3, "none.txt is not there"),
        (["--text", "{a}", "--max-kld", "1"], 2, "limits are on what is measured with --against"),
        (["--text", "{a}", "--max-kld", "nan"], 2, "max_kld is nan"),
        (["--text", "{a}", "--min-top1", "101"], 2, "min_top1 is 101.0, and must lie between"),
        (["--text", "{a}", "--against", "none.gguf"], 3, "none.gguf"),
        (["--text", "{a}", "--threads", "0"], 2, "threads is 0"),
        (["--text", "{a}", "--ctx", "1000"], 2, "was trained on 128"),
    ],
)
def test_what_is_typed_wrong_gets_one_sentence(
    models: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    status: int,
    sentence: str,
) -> None:
    args = [each.replace("{a}", str(models / "a.txt")) for each in more]
    assert run([*arguments(models, "f32.gguf"), *args]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in err
    assert err.startswith("edgellm: ")


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="seed is -1"):
        edgellm.measure(seed=-1)


def test_a_folder_without_mlx_says_what_to_install(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "mlx" else find(name)
    )
    assert run([*arguments(models, "hf"), "--text", str(models / "a.txt")]) == 1
    err = capsys.readouterr().err
    assert f"{models / 'hf'}: a folder is run with MLX, and mlx is not installed" in err
    assert "pip install 'edgellm[mlx]'" in err


def test_a_damaged_folder_is_refused_before_mlx_sees_it(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny.llama(tmp_path / "hf")
    (folder / "model-extra.safetensors").write_bytes(b"\xff" * 20)
    assert run([*arguments(models), str(folder), "--text", str(models / "a.txt")]) == 5
    assert "model-extra.safetensors" in capsys.readouterr().err


def test_ctrl_c_ends_it_at_once(models: Path, tmp_path: Path) -> None:
    text = tmp_path / "long.txt"
    text.write_text("the quick brown fox and the lazy dog, " * 40_000)
    read_texts([text])
    code = "from edgellm.cli import main; main()"
    args = [*arguments(models, "f32.gguf"), "--text", str(text)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    time.sleep(3)
    assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert out == b""
    assert err == b"edgellm: interrupted\n"


PEER = os.environ.get("LLAMA_PERPLEXITY", "")


@pytest.mark.model
@pytest.mark.skipif(not PEER, reason="needs LLAMA_PERPLEXITY, the path of llama-perplexity")
def test_llama_perplexity_measures_the_same(
    smollm2: Path,
    shared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its reference is stored in 16 bits and cut off at 16 nats: 1 % is for that.

    Both sides run the same kernels: those for repacked weights round otherwise, which alone moves
    a KL divergence over 1,000 tokens by about 1 %.
    """
    native = library()
    defaults = native.llama_model_default_params

    def without_repacking():
        params = defaults()
        params.use_extra_bufts = False
        return params

    monkeypatch.setattr(native, "llama_model_default_params", without_repacking)
    text = tmp_path / "wiki.txt"
    whole = (shared / "text" / "wiki.test.raw").read_text(encoding="utf-8")
    text.write_text(whole[:5_500], encoding="utf-8")
    reference, base = tmp_path / "f16.gguf", tmp_path / "base"
    convert(smollm2, reference, dtype="f16")
    model = tmp_path / "q3.gguf"
    quantize(reference, model, "Q3_K_M", method="rtn")

    def peer(path: Path, *more: str) -> str:
        # -nr: as built with some compilers, repacked weights end in a crash on some processors.
        args = [PEER, "-nr", "-m", str(path), "-c", "512", "--kl-divergence-base", str(base)]
        done = subprocess.run([*args, *more], capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    final = re.search(r"Final estimate: PPL = ([0-9.]+)", peer(reference, "-f", str(text)))
    out = peer(model, "--kl-divergence")
    perplexity = float(re.search(r"Mean PPL\(Q\)\s*:\s*([0-9.]+)", out)[1])
    kld = float(re.search(r"Mean\s+KLD:\s*([0-9.]+)", out)[1])
    top = float(re.search(r"Same top p:\s*([0-9.]+)", out)[1])
    args = ["eval", str(model), "--against", str(reference), "--text", str(text), "--json"]
    assert run([*args, "--ctx", "512"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["reference_perplexity"] == pytest.approx(float(final[1]), rel=0.01)
    assert found["perplexity"] == pytest.approx(perplexity, rel=0.01)
    assert found["kld"]["mean"] == pytest.approx(kld, rel=0.01)
    assert found["top1_agreement"] == pytest.approx(top, abs=1)
