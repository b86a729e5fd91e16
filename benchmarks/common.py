"""What the benchmark scripts share: the models, interleaving, and how figures are printed."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED_MODELS = ROOT.parent / "shared" / "data" / "models"


def arguments(description: str | None, *, rounds: int) -> argparse.Namespace:
    """Parse the options that every script takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help="repetitions, interleaved")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args()


def interleave(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run every contestant once a round, the order reversed each round; give all the values."""
    values: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        names = list(contestants)
        for name in names if turn % 2 == 0 else reversed(names):
            values[name].append(contestants[name]())
    return values


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Give the median of the ratios round by round: both saw the same noise."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def report(title: str, figures: dict[str, object], *, as_json: bool) -> None:
    """Print one result, for a person or for a program."""
    if as_json:
        machine = {"machine": platform.machine(), "python": platform.python_version()}
        print(json.dumps({"benchmark": title, **figures, **machine}))
        return
    print(title)
    for name, value in figures.items():
        shown = f"{value:.3f}" if isinstance(value, float) else value
        print(f"  {name:42} {shown}")


def default_model() -> Path:
    """Give the default model's file; the store must hold it (`edgellm pull`)."""
    from edgellm.models.resolve import resolve

    return resolve(None)


def stories15m() -> Path | None:
    """Give the folder of stories15M if it is there."""
    folder = SHARED_MODELS / "stories15M-hf-f16"
    return folder if folder.is_dir() else None
