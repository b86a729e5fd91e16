"""The quantizers that `quality.py` compares with, each run as a program of its own.

llama.cpp's is `llama_model_quantize`: through its own tool `llama-quantize` where the folder of
llama.cpp's binaries is known, else through llama-cpp-python. Its importance matrices come from
`llama-imatrix`, or from edgellm's own statistics where that is missing. mlx-lm's quantizers read
their calibration text from a fixed place below the home folder, so they get a home folder in which
our calibration text lies there.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["MLX_WAYS", "Cost", "FailedError", "ggml", "imatrix", "mlx", "ours"]

CONTEXT = 512
MLX_WAYS = ("mlx-lm", "mlx-dynamic", "mlx-gptq", "mlx-dwq")


class FailedError(Exception):
    """A program failed or took too long; the last lines that it wrote."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a program took: wall-clock seconds, and the most memory in bytes."""

    seconds: float
    peak: int


def run(command: Sequence[str], *, log: Path, home: Path | None = None, limit: float = 0) -> Cost:
    """Run a program to its end; its output goes to `log`.

    Raises:
        FailedError: it failed, or took more than `limit` seconds (0: no limit).
    """
    environment = dict(os.environ)
    if home is not None:
        environment |= {"HOME": str(home), "HF_HUB_OFFLINE": "1"}
    if limit:
        command = ["timeout", str(limit), *command]
    started = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        # Not wait(): the peak memory comes with it, of this one process and what it waited for.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        last = log.read_text("utf-8", "replace").strip().splitlines()[-1:]
        raise FailedError(f"{command[0]} ended with {process.returncode}: {' '.join(last)[:300]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(time.perf_counter() - started, usage.ru_maxrss * unit)


def ours(source: Path, output: Path, **options: Any) -> Cost:
    """Run `edgellm.quantize` in a process of its own, so that its memory can be told.

    It keeps the statistics of a model and text, so the first of several files takes longer.
    """
    job = json.dumps({"source": str(source), "output": str(output), **options})
    code = "import edgellm, json, sys; edgellm.quantize(**json.loads(sys.argv[1]))"
    return run([sys.executable, "-c", code, job], log=output.with_suffix(".log"))


def imatrix(model: Path, text: Path, target: Path, binaries: Path | None, threads: int) -> Cost:
    """Gather llama.cpp's importance matrix of a float model on a text."""
    log = target.with_suffix(".log")
    if binaries is not None:
        options = ["-c", str(CONTEXT), "-t", str(threads), "--no-ppl"]
        command = [str(binaries / "llama-imatrix"), "-m", str(model), "-f", str(text)]
        return run([*command, "-o", str(target), *options], log=log)
    quantized = target.with_suffix(".tmp.gguf")
    cost = ours(
        model,
        quantized,
        type="Q8_0",
        method="importance",
        calibration=[str(text)],
        save_imatrix=str(target),
        receipt=False,
    )
    quantized.unlink()
    return cost


def ggml(
    source: Path,
    target: Path,
    type_name: str,
    importance: Path | None,
    binaries: Path | None,
    threads: int,
) -> Cost:
    """Quantize a float GGUF with llama.cpp's quantizer."""
    log = target.with_suffix(".log")
    if binaries is not None:
        weighed = ["--imatrix", str(importance)] if importance else []
        command = [str(binaries / "llama-quantize"), *weighed, str(source), str(target), type_name]
        return run([*command, str(threads)], log=log)
    job = {
        "source": str(source),
        "target": str(target),
        "type": type_name,
        "importance": str(importance) if importance else None,
        "threads": threads,
    }
    return run([sys.executable, __file__, json.dumps(job)], log=log)


def _through_library(job: dict[str, str]) -> int:
    """Do what `llama-quantize` does, in a process of its own; give its exit status."""
    import llama_cpp
    import numpy as np

    from edgellm_quant.recipes import get_recipe

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = get_recipe(job["type"]).file_type
    params.nthread = int(job["threads"])
    if job["importance"]:
        from edgellm_converters.imatrix import read_imatrix

        found = read_imatrix(Path(job["importance"])).entries
        entry = llama_cpp.llama_model_imatrix_data
        kept = []  # llama.cpp is given addresses
        array = (entry * (len(found) + 1))()
        for at, (name, each) in enumerate(found.items()):
            values = np.ascontiguousarray(each.values, np.float32)
            kept.append(values)
            data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            array[at] = entry(name.encode(), data, values.size)
        params.imatrix = ctypes.cast(array, type(params.imatrix))
    status = llama_cpp.llama_model_quantize(
        job["source"].encode(), job["target"].encode(), ctypes.byref(params)
    )
    return int(status != 0)


def mlx(
    folder: Path, target: Path, way: str, bits: int, text: Path, *, home: Path, limit: float
) -> Cost:
    """Quantize a Hugging Face folder with mlx-lm, in groups of 64.

    Args:
        folder: float weights.
        target: the MLX folder to write.
        way: one of `MLX_WAYS`: its converter, which searches nothing; bits chosen for each layer
            by sensitivity; GPTQ; or distillation of scales, on few samples.
        bits: of a weight, before scales.
        text: what it calibrates on.
        home: a folder that it takes for the home folder.
        limit: seconds after which it is stopped.

    Raises:
        FailedError: it failed or took too long.
    """
    place = home / ".cache" / "mlx-lm" / "calibration_v5.txt"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text.read_bytes())
    python, source, out = sys.executable, str(folder), str(target)
    if way == "mlx-lm":
        command = [python, "-m", "mlx_lm", "convert", "--hf-path", source, "--mlx-path", out]
        command += ["-q", "--q-bits", str(bits), "--q-group-size", "64"]
    elif way == "mlx-dynamic":
        # Its default is 5 bits a weight from layers in 4 and 5: half a bit above the lower one.
        command = [python, "-m", "mlx_lm", "dynamic_quant", "--model", source, "--mlx-path", out]
        command += ["--low-bits", str(bits), "--high-bits", str(bits + 1)]
        command += ["--target-bpw", str(bits + 1)]
    elif way == "mlx-gptq":
        command = [python, "-m", "mlx_lm", "gptq", "--model", source, "--mlx-path", out]
        command += ["--bits", str(bits), "--num-samples", "96"]
    else:
        command = [python, "-m", "mlx_lm", "dwq", "--model", source, "--mlx-path", out]
        command += ["--bits", str(bits), "--num-samples", "128", "--max-seq-length", "257"]
        command += ["--data-path", str(_samples(text, home))]
    return run(command, log=target.with_suffix(".log"), home=home, limit=limit)


def _samples(text: Path, home: Path) -> Path:
    """Write a text as the data set that mlx-lm's distillation reads; give its folder."""
    whole = text.read_text(encoding="utf-8")
    folder = home / "samples"
    folder.mkdir(exist_ok=True)
    parts = [whole[at : at + 1000] for at in range(0, len(whole), 1000)]
    for name, chosen in (("train", parts[8:]), ("valid", parts[:8])):
        lines = (json.dumps({"text": part}, ensure_ascii=False) for part in chosen)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


if __name__ == "__main__":
    sys.exit(_through_library(json.loads(sys.argv[1])))
