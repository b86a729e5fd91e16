"""Statistics that are kept on disk for the next type."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgellm.quantization import gathered
from edgellm.quantization.gathered import Gatherings
from edgellm_quant.statistics import RowStatistics, TensorStatistics


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path))
    return tmp_path / "statistics"


def statistics(seed: int, *, matrices: bool = True) -> TensorStatistics:
    x = np.random.default_rng(seed).standard_normal((20, 4)).astype(np.float32)
    hessian = x.T @ x / 20 if matrices else None
    held = hessian[::-1, ::-1].copy() if hessian is not None else None
    importance = np.mean(x**2, axis=0)
    return TensorStatistics(
        4,
        (
            RowStatistics(0, 3, 20, importance, hessian, held),
            RowStatistics(3, 5, 7, importance, hessian, held),
        ),
    )


def equal(one: TensorStatistics, two: TensorStatistics) -> bool:
    return all(
        (a.start, a.stop, a.tokens) == (b.start, b.stop, b.tokens)
        and all(
            (x is None and y is None) or (x is not None and y is not None and (x == y).all())
            for x, y in (
                (a.importance, b.importance),
                (a.hessian, b.hessian),
                (a.held_out, b.held_out),
            )
        )
        for a, b in zip(one.groups, two.groups, strict=True)
    )


def test_what_is_stored_is_loaded(cache: Path) -> None:
    one = statistics(1)
    Gatherings("k").store({"a": one, "b": one}, "hessian")
    found = Gatherings("k").load(["a", "b", "c"], "hessian")
    assert found.keys() == {"a", "b"}
    assert equal(found["b"], one)
    assert len(list((cache / "k").glob("*.npy"))) == 3  # shared by tensors and groups
    assert Gatherings("other").load(["a"], "hessian") == {}


def test_importance_alone_does_not_stand_for_matrices() -> None:
    Gatherings("k").store({"a": statistics(1, matrices=False)}, "importance")
    assert Gatherings("k").load(["a"], "hessian") == {}
    assert Gatherings("k").load(["a"], "importance").keys() == {"a"}


def test_damage_is_as_if_nothing_were_there(cache: Path) -> None:
    Gatherings("k").store({"a": statistics(1)}, "hessian")
    file = next((cache / "k").glob("*.npy"))
    file.write_bytes(file.read_bytes()[:40])
    assert Gatherings("k").load(["a"], "hessian") == {}
    next((cache / "k").glob("*.json")).write_text("{")
    assert Gatherings("k").load(["a"], "hessian") == {}


def test_room_is_bounded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "MOST_BYTES", 100)
    Gatherings("k").store({"a": statistics(1)}, "hessian")
    assert Gatherings("k").load(["a"], "hessian") == {}
    monkeypatch.setattr(gathered, "MOST_BYTES", 10_000)
    monkeypatch.setattr(gathered, "MOST_BYTES_IN_ALL", 3_000)
    for number in range(3):
        Gatherings(f"k{number}").store({"a": statistics(number)}, "hessian")
        os.utime(cache / f"k{number}", (number + 1e9, number + 1e9))
    monkeypatch.setattr("edgellm.quantization.work.STALE_SECONDS", 1e12)
    assert Gatherings("k2").load(["a"], "hessian")
    assert not (cache / "k0").exists()
