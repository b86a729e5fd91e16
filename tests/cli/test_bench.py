"""`edgellm bench`: what it evaluates, and the arithmetic of what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from edgellm.api.bench import Speed, bench
from edgellm.api.sustained import Sample, sustain
from edgellm.backends.base import CancelledError
from edgellm.backends.llama_cpp.context import LlamaCppContext
from edgellm.backends.llama_cpp.kernel import measure_kernel
from edgellm.cli.main import run
from edgellm.device import bandwidth
from tinygguf import write_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", context=1024))


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bandwidth, "DURATION", 0.0)
    monkeypatch.setattr(bandwidth, "LARGEST", 2**22)


def as_json(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    assert run(["bench", *args, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_json(capsys: pytest.CaptureFixture[str], tiny: str) -> None:
    body = as_json(capsys, tiny, "-p", "40", "-n", "5", "-r", "2", "-t", "1", "--depth", "10")
    assert (body["model"], body["backend"], body["threads"]) == (tiny, "llama_cpp", 1)
    assert (body["prompt_tokens"], body["completion_tokens"], body["depth"]) == (40, 5, 10)
    assert body["prompt_tokens_per_s"] > 0 < body["completion_tokens_per_s"]
    assert body["prompt_stddev"] >= 0 <= body["completion_stddev"]
    assert body["model_bytes"] < Path(tiny).stat().st_size
    assert body["token_bytes"] > 0
    share = body["completion_tokens_per_s"] * body["token_bytes"] / 1e9 / body["bandwidth_gb_s"]
    assert body["roofline_share"] == pytest.approx(share, rel=0.05, abs=1e-3)


def test_a_part_is_left_out(capsys: pytest.CaptureFixture[str], tiny: str) -> None:
    body = as_json(capsys, tiny, "-p", "0", "-n", "3", "-r", "1")
    assert body["prompt_tokens_per_s"] is None
    assert body["expected_tokens_per_s"] > 0
    body = as_json(capsys, tiny, "-p", "8", "-n", "0", "-r", "1")
    assert body["completion_tokens_per_s"] is body["roofline_share"] is None


def test_report(capsys: pytest.CaptureFixture[str], tiny: str) -> None:
    assert run(["bench", tiny, "-p", "8", "-n", "3", "-r", "2"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"prompt +8 tokens +[\d.]+ ± [\d.]+ tokens/s", out)
    assert re.search(r"writing +3 tokens +[\d.]+ ± [\d.]+ tokens/s", out)
    assert re.search(r"\d+ % of the memory bandwidth of [\d.]+ GB/s", out)


def test_what_is_evaluated(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt is never taken from the context, and the text starts behind the depth alone."""
    evaluated: list[tuple[int, int]] = []
    steps: list[int] = []
    prefill, next_piece = LlamaCppContext.prefill, LlamaCppContext.next_piece

    def counted(self: Any, tokens: Any, *rest: Any) -> int:
        kept = prefill(self, tokens, *rest)
        evaluated.append((len(tokens), kept))
        return kept

    def stepped(self: Any) -> bytes | None:
        steps.append(len(self.held))
        return next_piece(self)

    monkeypatch.setattr(LlamaCppContext, "prefill", counted)
    monkeypatch.setattr(LlamaCppContext, "next_piece", stepped)
    bench(tiny, prompt_tokens=20, completion_tokens=4, repetitions=1, depth=7)
    # emptied, filled to the depth, and the prompt behind it: to warm up, and to measure
    reading = [(1, 0), (7, 0), (27, 7)]
    writing = [(1, 0), (8, 0)]
    assert evaluated == reading * 2 + writing * 2
    assert steps == [8, 8, 8, 8, 9, 10, 11]


def test_it_can_be_stopped(tiny: str) -> None:
    with pytest.raises(CancelledError):
        bench(tiny, cancelled=lambda: True)


@pytest.mark.parametrize(
    ("args", "status", "sentence"),
    [
        (["-p", "0", "-n", "0"], 2, "nothing to measure"),
        (["-r", "0"], 2, "repetitions: 0"),
        (["-p", "-1"], 2, "prompt tokens: -1"),
        (["-p", "2000"], 2, "was trained on 1024"),
    ],
)
def test_what_cannot_be_measured(
    capsys: pytest.CaptureFixture[str], tiny: str, args: list[str], status: int, sentence: str
) -> None:
    assert run(["bench", tiny, *args]) == status
    assert sentence in capsys.readouterr().err


def test_mean_and_deviation() -> None:
    speed = Speed((1.0, 2.0, 6.0))
    assert (speed.mean, speed.stddev) == (3.0, pytest.approx(7**0.5))
    assert Speed((5.0,)).stddev == 0


def test_kernels_read_some_bytes_a_second() -> None:
    assert measure_kernel(1, 2**20) > 0


def test_sustained_samples_go_on_to_the_end(capsys: pytest.CaptureFixture[str], tiny: str) -> None:
    body = as_json(capsys, tiny, "--sustained", "0.02", "-t", "1")
    samples = body["samples"]
    assert len(samples) >= 4
    assert [each["seconds"] for each in samples] == sorted(each["seconds"] for each in samples)
    assert samples[-1]["seconds"] >= 1.2
    assert all(each["tokens_per_s"] > 0 for each in samples)
    quarter = len(samples) // 4
    first, last = (
        sum(each["tokens_per_s"] for each in part) / quarter
        for part in (samples[:quarter], samples[-quarter:])
    )
    assert body["complete"]
    assert body["kept"] == pytest.approx(last / first, rel=0.01)


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "1e9"])
def test_minutes_out_of_range_are_refused(
    capsys: pytest.CaptureFixture[str], tiny: str, minutes: str
) -> None:
    assert run(["bench", tiny, "--sustained", minutes]) == 2
    assert "must lie between 0 and 1440" in capsys.readouterr().err


def test_a_sustained_run_that_is_stopped_gives_what_it_has(tiny: str) -> None:
    seen: list[Sample] = []
    result = sustain(tiny, 1, threads=1, cancelled=lambda: bool(seen), on_sample=seen.append)
    assert result.samples == tuple(seen)
    assert not result.complete
    assert result.kept is None
