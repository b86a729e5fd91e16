"""Quantization from a model and a text to a file with its receipt, on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgellm
import tiny
from edgellm.api.verify import verify_receipt
from edgellm.backends.base import CancelledError
from edgellm.errors import DoesNotFitError, NotFoundError, UsageError
from edgellm.quantization.job import Outcome, Watcher
from edgellm.quantization.receipt import RECEIPT_FILE
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_converters.errors import RequantizeError
from edgellm_converters.imatrix import read_imatrix
from edgellm_quant.methods.importance import round_with_importance

WORDS = "the quick brown fox jumps over a lazy dog while کتاب روی میز است and 3 + 4 = 7 "


@dataclass(frozen=True)
class World:
    """A float model, a text to calibrate on and one to measure on."""

    model: Path
    calibration: Path
    text: Path

    def quantize(self, output: Path, kind: str | None = "Q4_0", **options: Any) -> Outcome:
        given = {"calibration": [self.calibration], "text": [self.text], "threads": 1}
        return edgellm.quantize(self.model, output, kind, **given | options)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    folder = tiny.llama(root / "hf", hidden=128, feed_forward=288)
    edgellm.convert(folder, root / "f32.gguf", dtype="f32")
    order = np.random.default_rng(0)
    words = WORDS.split()
    for name, count in (("calibration.txt", 4000), ("text.txt", 1200)):
        (root / name).write_text(" ".join(order.choice(words, count)), "utf-8")
    return World(root / "f32.gguf", root / "calibration.txt", root / "text.txt")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))


def tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    with GGUFCheckpoint(path) as opened:
        return {
            name: (opened.info(name).format.name, opened.raw(name).tobytes())
            for name in opened.names
        }


def test_types_are_the_recipes_and_values_lose_less(world: World, tmp_path: Path) -> None:
    plain = edgellm.quantize(world.model, tmp_path / "rtn.gguf", "Q4_0", method="rtn")
    ours = world.quantize(tmp_path / "gptq.gguf")
    assert plain.receipt is None
    receipt = ours.receipt
    assert receipt is not None
    assert receipt.method == "gptq"
    everything = receipt.quality[-1]
    assert everything.name == "all"
    before = edgellm.measure(plain.conversion.output, against=world.model, texts=[world.text])
    kld = before.evaluations[0].quality.kld
    assert kld is not None
    assert 0 < everything.kld["mean"] < kld.mean
    errors = [made for made in receipt.tensors.values() if made.method == "gptq"]
    assert errors
    assert all(made.error < made.importance_error for made in errors)  # type: ignore[operator]


def test_the_file_runs_and_its_receipt_holds(world: World, tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    outcome = world.quantize(target)
    found = edgellm_show(target)
    assert found == outcome.receipt
    done = verify_receipt(target, against=world.model, text=[world.text], threads=1)
    assert done.holds
    assert [check.name for check in done.checks] == [
        "tensors (sha256)",
        "source (sha256)",
        "perplexity, text.txt",
        "mean KLD, text.txt",
    ]
    alone = verify_receipt(target, threads=1)
    assert alone.holds
    assert alone.skipped == ("text.txt: its text is not at hand (--text FILE)",)
    with pytest.raises(UsageError, match="did not measure on this text"):
        verify_receipt(target, text=[world.calibration])


def test_a_changed_weight_or_another_source_is_found(world: World, tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    world.quantize(target)
    data = bytearray(target.read_bytes())
    data[-5] ^= 1
    target.write_bytes(data)
    other = tmp_path / "other.gguf"
    edgellm.convert(world.model, other, dtype="f16")
    done = verify_receipt(target, against=other, threads=1)
    assert not done.holds
    assert [check.holds for check in done.checks] == [False, False]
    with pytest.raises(NotFoundError, match="no receipt"):
        verify_receipt(world.model)


def edgellm_show(path: Path) -> object:
    from edgellm.api.show import show

    return show(str(path)).receipt


def stopping_after(count: int) -> tuple[Watcher, Callable[[], list[str]]]:
    """Give a watcher that stops the work after so many tensors, and what it saw."""
    seen: list[str] = []

    def stage(what: str, _done: float, _total: float) -> None:
        seen.append(what)

    return Watcher(stage=stage, cancelled=lambda: seen.count("encoding") >= count), lambda: seen


def test_an_interrupted_run_goes_on_where_it_was(world: World, tmp_path: Path) -> None:
    whole, target = tmp_path / "whole.gguf", tmp_path / "x.gguf"
    world.quantize(whole)
    watcher, _ = stopping_after(6)
    with pytest.raises(CancelledError):
        world.quantize(target, watcher=watcher)
    assert not target.exists()
    kept = list((tmp_path / "cache" / "quantize").glob("*/tensor-*.json"))
    assert len(kept) == 6
    watcher, seen = stopping_after(10**6)
    world.quantize(target, watcher=watcher)
    whole_count = len(tensors(whole)) - 5 + 1  # without norms; and the end
    assert seen().count("encoding") == whole_count - 6
    assert tensors(target) == tensors(whole)
    assert list((tmp_path / "cache" / "quantize").iterdir()) == []


def test_importance_is_saved_and_used_again(world: World, tmp_path: Path) -> None:
    saved = tmp_path / "saved.gguf"
    first = tmp_path / "a.gguf"
    world.quantize(first, method="importance", save_imatrix=saved)
    again = tmp_path / "b.gguf"
    outcome = world.quantize(again, method="importance", imatrix=saved, receipt=False)
    one, two = tensors(first), tensors(again)
    assert one.keys() == two.keys()
    for name, (kind, data) in one.items():
        # Means become sums and counts in the file, which rounds their last digits.
        assert two[name][0] == kind
        same = np.frombuffer(data, np.uint8) == np.frombuffer(two[name][1], np.uint8)
        assert same.mean() > 0.999
    assert outcome.receipt is not None
    assert outcome.receipt.quality == ()
    entry = read_imatrix(saved).entries["blk.0.ffn_up.weight"]
    importance = entry.of_shape(1, 128)
    assert importance is not None
    with GGUFCheckpoint(world.model) as opened, GGUFCheckpoint(first) as made:
        info = made.info("blk.0.ffn_up.weight")
        rows = opened.load_rows(info.name, 0, info.rows)
        wanted = round_with_importance(rows, info.format, importance[0])
        stored = np.frombuffer(made.raw(info.name).tobytes(), np.uint8)
        assert (stored == wanted.reshape(-1)).mean() > 0.999


def test_an_imatrix_of_another_model_is_refused(world: World, tmp_path: Path) -> None:
    saved = tmp_path / "saved.gguf"
    world.quantize(tmp_path / "a.gguf", method="importance", save_imatrix=saved, receipt=False)
    other = tmp_path / "other.gguf"
    edgellm.convert(tiny.llama(tmp_path / "hf", hidden=64, feed_forward=96), other, dtype="f32")
    with pytest.raises(UsageError, match="of another shape than"):
        edgellm.quantize(
            other, tmp_path / "b.gguf", "Q4_0", method="importance", imatrix=saved, receipt=False
        )


def test_a_folder_of_mlx_gets_values_and_a_receipt(world: World, tmp_path: Path) -> None:
    from edgellm_converters.sources import open_source

    target = tmp_path / "x.mlx"
    outcome = world.quantize(target, None, bits=4, receipt=False)
    receipt = json.loads((target / RECEIPT_FILE).read_text("utf-8"))
    assert receipt["method"] == "gptq"
    assert edgellm_show(target) == outcome.receipt
    edgellm.convert(world.model, tmp_path / "plain.mlx", bits=4)
    with open_source(target) as one, open_source(tmp_path / "plain.mlx") as two:
        name = "model.layers.0.mlp.up_proj.weight"
        assert one.tensors.shapes == two.tensors.shapes
        assert one.tensors.format(name) == two.tensors.format(name)
        ours, plain = (each.tensors.rows(name, 0, 8) for each in (one, two))
    assert ours.tobytes() != plain.tobytes()


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_a_size_is_kept(world: World, tmp_path: Path, method: str) -> None:
    limit = round(world.model.stat().st_size * 0.21)
    target = tmp_path / "x.gguf"
    outcome = world.quantize(target, None, size=limit, method=method)
    assert 0.9 * limit < target.stat().st_size <= limit
    assert outcome.receipt is not None
    assert outcome.receipt.request == {"size": limit}
    with pytest.raises(DoesNotFitError):
        world.quantize(tmp_path / "y.gguf", None, size=10_000, method=method)


@pytest.mark.parametrize("wish", [{"kind": "Q5_0"}, {"kind": None, "size": 10**6}])
def test_a_quantized_source_is_refused_before_anything_runs(
    world: World, tmp_path: Path, wish: dict[str, Any]
) -> None:
    once = tmp_path / "once.gguf"
    edgellm.quantize(world.model, once, "Q4_0", method="rtn")
    watcher, seen = stopping_after(10**6)
    again = World(once, world.calibration, world.text)
    with pytest.raises(RequantizeError, match="quantized already"):
        again.quantize(tmp_path / "x.gguf", watcher=watcher, **wish)
    assert seen() == []
    outcome = again.quantize(tmp_path / "x.gguf", "Q5_0", requantize=True, receipt=False)
    assert outcome.receipt is not None


def test_a_size_is_kept_in_mlx(world: World, tmp_path: Path) -> None:
    limit = round(world.model.stat().st_size * 0.25)
    target = tmp_path / "x.mlx"
    world.quantize(target, None, size=limit, receipt=False)
    written = sum(file.stat().st_size for file in target.iterdir())
    assert 0.75 * limit < written <= limit
    with pytest.raises(UsageError, match="for llama"):
        world.quantize(tmp_path / "y.mlx", None, fit="rpi5-8gb")


def test_a_budget_is_measured_against_the_largest_recipe_that_fits(
    world: World, tmp_path: Path
) -> None:
    limit = round(world.model.stat().st_size * 0.21)
    outcome = world.quantize(tmp_path / "x.gguf", None, size=limit)
    assert len(outcome.points) == 2
    assert max(point.bytes for point in outcome.points) <= limit
    assert outcome.receipt is not None
    best = min(point.kld for point in outcome.points)
    assert outcome.receipt.quality[-1].kld["mean"] == best


def test_a_limit_of_divergence_is_kept(world: World, tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    outcome = world.quantize(target, None, max_kld=0.02)
    assert outcome.receipt is not None
    assert outcome.receipt.quality[-1].kld["mean"] <= 0.02
    assert target.stat().st_size < 0.6 * world.model.stat().st_size
    assert outcome.points


def test_a_report_is_drawn(world: World, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `report`")
    folder = tmp_path / "report"
    world.quantize(tmp_path / "x.gguf", report=folder)
    assert {path.name for path in folder.iterdir()} == {
        "layers.png",
        "report.html",
        "size-quality.png",
    }
    page = (folder / "report.html").read_text("utf-8")
    assert "http" not in page.replace("http-equiv", "")
    assert "blk.0.ffn_up.weight" in page
    assert (folder / "layers.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": None}, "exactly one of"),
        ({"bits": 4}, "exactly one of"),
        ({"kind": None, "bpw": -1.0}, "above 0"),
        ({"context": 100}, "goes with a device"),
        ({"method": "awq"}, "no method"),
        ({"effort": "more"}, "no effort"),
        ({"method": "rtn", "imatrix": "x"}, "rtn uses no importance"),
        ({"method": "gptq", "imatrix": "x"}, "more than the importance"),
        ({"kind": None, "max_kld": 0.1, "receipt": False}, "has to be measured"),
    ],
)
def test_options_that_exclude_each_other(
    world: World, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        world.quantize(tmp_path / "x.gguf", **options)
    assert not (tmp_path / "x.gguf").exists()
