"""Time to the first token of a long prompt: the second process that asks, over the first."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import arguments, default_model, paired_ratio, report

EDGELLM = str(Path(sys.executable).parent / "edgellm")
SENTENCE = "Once upon a time there was a little boat on a wide river. "
SENTENCES = 107  # of 14 tokens each
CACHE_TYPES = ("f16", "q8_0", "q4_0")


def run(model: Path, cache_type: str, cache: str) -> dict[str, Any]:
    """Answer once in a process of its own; gives its numbers, and the seconds of the process."""
    command = [EDGELLM, "run", str(model), "--raw", "-p", SENTENCE * SENTENCES, "--temp", "0"]
    command += ["-n", "8", "--cache-type", cache_type, "--threads", str(os.cpu_count() or 1)]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, "--json"],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "EDGELLM_CACHE": cache},
    )
    seconds = time.perf_counter() - start
    numbers: dict[str, Any] = json.loads(done.stdout)
    return numbers | {"process_s": seconds}


def main() -> None:
    """Ask twice with each type of cache, in turns, each time from an empty folder."""
    args = arguments(__doc__, rounds=5)
    model = default_model()
    runs: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for turn in range(args.rounds):
        for cache_type in CACHE_TYPES if turn % 2 == 0 else reversed(CACHE_TYPES):
            with tempfile.TemporaryDirectory() as cache:
                first = run(model, cache_type, cache)
                second = run(model, cache_type, cache)
                states = Path(cache).glob("prompts/*.state")
                first["state_bytes"] = sum(file.stat().st_size for file in states)
            if first["text"] != second["text"] or not second["restored_tokens"]:
                raise SystemExit(f"{cache_type}: the second run did not do the same: {second}")
            runs.setdefault(cache_type, []).append((first, second))
    for cache_type, pairs in runs.items():
        figures: dict[str, object] = {
            "prompt_tokens": pairs[0][0]["prompt_tokens"],
            "restored_tokens": pairs[0][1]["restored_tokens"],
            "state_bytes": pairs[0][0]["state_bytes"],
        }
        for key in ("time_to_first_token_s", "process_s"):
            cold = [pair[0][key] for pair in pairs]
            warm = [pair[1][key] for pair in pairs]
            figures[f"{key}, first (median)"] = statistics.median(cold)
            figures[f"{key}, second (median)"] = statistics.median(warm)
            figures[f"{key}, second / first (median of pairs)"] = paired_ratio(warm, cold)
            figures[f"{key}, second / first (largest)"] = max(
                b / a for a, b in zip(cold, warm, strict=True)
            )
        figures["rounds"] = args.rounds
        report(f"prompt cache, SmolLM2-135M-Instruct, {cache_type}", figures, as_json=args.json)


if __name__ == "__main__":
    main()
