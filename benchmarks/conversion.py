"""Conversion: MB/s of source read, and peak memory as a multiple of the largest tensor.

The baseline of the memory figure is a process that imports what `edgellm convert` imports and
does nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import arguments, default_model, report, stories15m

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


def measure(title: str, folder: Path, scratch: Path, rounds: int, *, as_json: bool) -> None:
    """Convert one folder to f16 and q8_0 and compare the memory with the baseline."""
    source = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    largest = largest_tensor(folder)
    figures: dict[str, object] = {
        "source (MB)": source / 1e6,
        "largest tensor (MB)": largest / 1e6,
    }
    for dtype in ("f16", "q8_0"):
        out = scratch / f"out-{dtype}.gguf"
        command = [EDGELLM, "convert", str(folder), "-o", str(out), "--dtype", dtype, "--force"]
        runs = []
        for _ in range(rounds):
            base = seconds_and_peak([sys.executable, "-c", IMPORTS])
            runs.append((seconds_and_peak(command), base))
        best = min(run[0] for run, _ in runs)
        above = max(run[1] - base[1] for run, base in runs)
        figures[f"{dtype}: whole command (s, best)"] = best
        figures[f"{dtype}: speed without start-up (MB/s, best)"] = (
            source / 1e6 / min(run[0] - base[0] for run, base in runs)
        )
        figures[f"{dtype}: peak above imports / largest tensor (worst)"] = above / largest
    report(f"conversion, {title}", figures, as_json=as_json)


def main() -> None:
    """Measure on SmolLM2 made back into a Hugging Face folder, and on stories15M."""
    args = arguments(__doc__, rounds=3)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = scratch / "smollm2-hf"
        subprocess.run(
            [EDGELLM, "convert", str(default_model()), "--to", "hf", "-o", str(folder)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        measure("SmolLM2-135M-Instruct", folder, scratch, args.rounds, as_json=args.json)
        stories = stories15m()
        if stories is not None:
            measure("stories15M", stories, scratch, args.rounds, as_json=args.json)


if __name__ == "__main__":
    main()
