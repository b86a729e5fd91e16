"""Conversion beside llama.cpp's converter: whole commands, interleaved; MB/s and peak memory.

llama.cpp's converter is taken from where `make test-oracle` unpacks it; without it, or without
torch, our own figures are given alone. The memory figure of ours is also given as a multiple of the
largest tensor, above a process that imports what `edgellm convert` imports and does nothing else.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from common import arguments, default_model, paired_ratio, report, stories15m

EDGELLM = str(Path(sys.executable).parent / "edgellm")
IMPORTS = "import gguf, numpy, edgellm.cli.main, edgellm.cli.convert, edgellm_converters.pipeline"


def seconds_and_peak(command: list[str]) -> tuple[float, int]:
    """Run a command; give its seconds and the peak resident memory in bytes."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with {child.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - started, usage.ru_maxrss * unit


def largest_tensor(folder: Path) -> int:
    """Give the bytes of the largest tensor of a Hugging Face folder, as stored."""
    from edgellm_converters.checkpoints.safetensors import SafetensorsCheckpoint

    return max(info.nbytes for info in SafetensorsCheckpoint.open(folder).tensors.values())


def reference_converter() -> Path | None:
    """Give llama.cpp's converter if it can run here."""
    from edgellm import settings

    given = os.environ.get("LLAMA_CPP_SOURCE")
    folder = settings.cache_dir() / "sources" / f"llama.cpp-{version('llama-cpp-python')}"
    script = (Path(given) if given else folder) / "convert_hf_to_gguf.py"
    can_run = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    return script if can_run and script.exists() else None


def measure(title: str, folder: Path, scratch: Path, rounds: int, *, as_json: bool) -> None:
    """Convert one folder to f16 and q8_0, by both converters in turn."""
    source = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    largest = largest_tensor(folder)
    script = reference_converter()
    figures: dict[str, object] = {
        "source (MB)": source / 1e6,
        "largest tensor (MB)": largest / 1e6,
    }
    for dtype in ("f16", "q8_0"):
        out = str(scratch / f"out-{dtype}.gguf")
        commands = {
            "ours": [EDGELLM, "convert", str(folder), "-o", out, "--dtype", dtype, "--force"],
            "imports": [sys.executable, "-c", IMPORTS],
        }
        if script is not None:
            theirs = [sys.executable, str(script), str(folder), "--outtype", dtype]
            commands["theirs"] = [*theirs, "--outfile", str(scratch / "theirs.gguf")]
        runs: dict[str, list[tuple[float, int]]] = {name: [] for name in commands}
        for turn in range(rounds):
            names = list(commands)
            for name in names if turn % 2 == 0 else reversed(names):
                runs[name].append(seconds_and_peak(commands[name]))
        seconds = {name: [run[0] for run in found] for name, found in runs.items()}
        peaks = {name: [float(run[1]) for run in found] for name, found in runs.items()}
        figures[f"{dtype}: whole command (s, best)"] = min(seconds["ours"])
        figures[f"{dtype}: speed, start-up included (MB/s, best)"] = (
            source / 1e6 / min(seconds["ours"])
        )
        figures[f"{dtype}: peak memory (MB, worst)"] = max(peaks["ours"]) / 1e6
        figures[f"{dtype}: peak above imports / largest tensor (worst)"] = (
            max(peaks["ours"]) - min(peaks["imports"])
        ) / largest
        if script is not None:
            figures[f"{dtype}: llama.cpp's converter (s, best)"] = min(seconds["theirs"])
            figures[f"{dtype}: its time / ours (median of pairs)"] = paired_ratio(
                seconds["theirs"], seconds["ours"]
            )
            figures[f"{dtype}: its peak memory / ours (median of pairs)"] = paired_ratio(
                peaks["theirs"], peaks["ours"]
            )
    report(f"conversion, {title}", figures, as_json=as_json)


def main() -> None:
    """Measure on SmolLM2 made back into a Hugging Face folder, and on stories15M."""
    args = arguments(__doc__, rounds=3)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = scratch / "smollm2-hf"
        subprocess.run(
            [EDGELLM, "convert", str(default_model()), "--to=hf", "--dtype=f16", "-o", str(folder)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        measure("SmolLM2-135M-Instruct", folder, scratch, args.rounds, as_json=args.json)
        stories = stories15m()
        if stories is not None:
            measure("stories15M", stories, scratch, args.rounds, as_json=args.json)


if __name__ == "__main__":
    main()
