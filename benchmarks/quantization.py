"""Quantize speed against llama.cpp's own `llama_model_quantize`, interleaved, same bytes."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from common import arguments, default_model, interleave, paired_ratio, report, stories15m

EDGELLM = str(Path(sys.executable).parent / "edgellm")
TYPES = ("Q8_0", "Q4_0", "Q4_K_M")


def ours(source: Path, target: Path, type_name: str, threads: int) -> float:
    """Quantize through edgellm's API; give the seconds."""
    import edgellm

    started = time.perf_counter()
    edgellm.quantize(source, target, type_name, method="rtn", force=True, threads=threads)
    return time.perf_counter() - started


def theirs(source: Path, target: Path, type_name: str, threads: int) -> float:
    """Quantize through llama.cpp; give the seconds."""
    import llama_cpp

    from edgellm_quant.recipes import get_recipe

    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = get_recipe(type_name).file_type
    started = time.perf_counter()
    status = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(params)
    )
    if status != 0:
        raise SystemExit(f"llama_model_quantize failed on {source}")
    return time.perf_counter() - started


def measure(title: str, source: Path, scratch: Path, rounds: int, *, as_json: bool) -> None:
    """Compare both on one float GGUF."""
    threads = os.cpu_count() or 1
    figures: dict[str, object] = {"source (MB)": source.stat().st_size / 1e6}
    for type_name in TYPES:
        our_file, their_file = scratch / "ours.gguf", scratch / "theirs.gguf"
        times = interleave(
            {
                "ours": partial(ours, source, our_file, type_name, threads),
                "theirs": partial(theirs, source, their_file, type_name, threads),
            },
            rounds,
        )
        figures[f"{type_name}: edgellm (s, best)"] = min(times["ours"])
        figures[f"{type_name}: llama.cpp (s, best)"] = min(times["theirs"])
        # Speed is the inverse of time: above 1 is faster than llama.cpp.
        figures[f"{type_name}: speed, edgellm / llama.cpp"] = paired_ratio(
            times["theirs"], times["ours"]
        )
    report(f"quantization, {title}", figures, as_json=as_json)


def main() -> None:
    """Measure on SmolLM2 (made float16) and on stories15M."""
    import llama_cpp

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
    def quiet(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
        """Swallow llama.cpp's log, which would cost it time on a terminal."""

    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    args = arguments(__doc__, rounds=5)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        jobs = {"SmolLM2-135M-Instruct": default_model()}
        stories = stories15m()
        if stories is not None:
            jobs["stories15M"] = stories
        for title, model in jobs.items():
            folder, gguf = model, scratch / f"{title}.gguf"
            if model.is_file():
                folder = scratch / "hf"
                convert(model, folder, "--to", "hf")
            convert(folder, gguf, "--dtype", "f16")
            measure(title, gguf, scratch, args.rounds, as_json=args.json)


def convert(source: Path, target: Path, *flags: str) -> None:
    """Run `edgellm convert`."""
    command = [EDGELLM, "convert", str(source), "-o", str(target), *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
