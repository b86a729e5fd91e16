"""How long a person waits: `edgellm --help`, and the first token of `edgellm run`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import arguments, default_model, interleave, paired_ratio, report

PROMPT = "The capital of France is"
EDGELLM = str(Path(sys.executable).parent / "edgellm")
BARE = str(Path(__file__).parent / "bare.py")


def seconds_of(command: list[str]) -> float:
    """Give the seconds until a command has ended."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def seconds_to_first_byte(command: list[str]) -> float:
    """Give the seconds from exec to the first byte on stdout."""
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None
        if not os.read(child.stdout.fileno(), 1):
            raise SystemExit(f"no output from {command[0]}")
        waited = time.perf_counter() - started
        child.stdout.read()
    if child.returncode != 0:
        raise SystemExit(f"{command[0]} failed with {child.returncode}")
    return waited


def main() -> None:
    """Measure and print."""
    args = arguments(__doc__, rounds=11)
    threads = str(os.cpu_count() or 1)
    model = str(default_model())
    helps = interleave(
        {
            "help": lambda: seconds_of([EDGELLM, "--help"]),
            "python": lambda: seconds_of([sys.executable, "-c", "pass"]),
        },
        args.rounds,
    )
    ours = [EDGELLM, "run", model, PROMPT, "--raw", "--temp", "0", "-n", "8"]
    ours += ["--ctx", "2048", "--threads", threads]
    bare = [sys.executable, BARE, model, PROMPT, "-n", "8", "--ctx", "2048", "--threads", threads]
    firsts = interleave(
        {
            "edgellm": lambda: seconds_to_first_byte(ours),
            "bare": lambda: seconds_to_first_byte(bare),
        },
        args.rounds,
    )
    figures: dict[str, object] = {
        "edgellm --help (ms, median)": statistics.median(helps["help"]) * 1e3,
        "python -c pass (ms, median)": statistics.median(helps["python"]) * 1e3,
        "first token of edgellm run (ms, median)": statistics.median(firsts["edgellm"]) * 1e3,
        "first token of the bare script (ms, median)": statistics.median(firsts["bare"]) * 1e3,
        "first token, edgellm / bare": paired_ratio(firsts["edgellm"], firsts["bare"]),
        "rounds": args.rounds,
    }
    report("start-up, SmolLM2-135M-Instruct Q4_1", figures, as_json=args.json)


if __name__ == "__main__":
    main()
