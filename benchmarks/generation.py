"""Prompt and generation speed of `edgellm run` against a bare low-level loop, interleaved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import arguments, default_model, paired_ratio, report, stories15m

EDGELLM = str(Path(sys.executable).parent / "edgellm")
BARE = str(Path(__file__).parent / "bare.py")
LONG = "Once upon a time there was a little boat on a wide river. " * 9
TOKENS = "96"


def figures_of(command: list[str], stream: str) -> dict[str, float]:
    """Run a command and read the JSON object from the last line of a stream."""
    done = subprocess.run(
        command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    loaded = json.loads((done.stdout if stream == "stdout" else done.stderr).splitlines()[-1])
    return {k: float(v) for k, v in loaded.items() if isinstance(v, int | float)}


def measure(title: str, model: Path, ctx: str, rounds: int, *, as_json: bool) -> None:
    """Compare both on one model."""
    threads = str(os.cpu_count() or 1)
    ours = [EDGELLM, "run", str(model), LONG, "--raw", "--temp", "0", "--repeat-penalty", "1"]
    ours += ["-n", TOKENS, "--ctx", ctx, "--threads", threads, "--json"]
    bare = [sys.executable, BARE, str(model), LONG, "-n", TOKENS]
    bare += ["--ctx", ctx, "--threads", threads]
    runs: dict[str, list[dict[str, float]]] = {"edgellm": [], "bare": []}
    for turn in range(rounds):
        for name in ("edgellm", "bare") if turn % 2 == 0 else ("bare", "edgellm"):
            ours_now = name == "edgellm"
            command, stream = (ours, "stdout") if ours_now else (bare, "stderr")
            runs[name].append(figures_of(command, stream))
    result: dict[str, object] = {}
    for key in ("prompt_tokens_per_s", "completion_tokens_per_s"):
        a = [run[key] for run in runs["edgellm"]]
        b = [run[key] for run in runs["bare"]]
        result[f"{key}, edgellm (best)"] = max(a)
        result[f"{key}, bare (best)"] = max(b)
        result[f"{key}, edgellm / bare (median of pairs)"] = paired_ratio(a, b)
        result[f"{key}, edgellm / bare (best of each)"] = max(a) / max(b)
    for key in ("prompt_tokens", "completion_tokens"):
        counts = sorted({run[key] for name in runs for run in runs[name]})
        if len(counts) != 1:
            raise SystemExit(f"{title}: the two did not do the same work: {key} {counts}")
        result[key] = int(counts[0])
    result["rounds"] = rounds
    report(f"generation, {title}", result, as_json=as_json)


def main() -> None:
    """Measure on SmolLM2 and, where it is, stories15M."""
    args = arguments(__doc__, rounds=9)
    measure("SmolLM2-135M-Instruct Q4_1", default_model(), "2048", args.rounds, as_json=args.json)
    folder = stories15m()
    if folder is None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        gguf = Path(scratch) / "stories15M-f16.gguf"
        subprocess.run(
            [EDGELLM, "convert", str(folder), "-o", str(gguf), "--dtype", "f16"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        # Its runs are short, so that there is more noise in each: more of them.
        measure("stories15M f16", gguf, "256", 3 * args.rounds, as_json=args.json)


if __name__ == "__main__":
    main()
