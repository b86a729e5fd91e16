"""Encoding and decoding MLX's formats in numpy against mlx itself, interleaved, same bytes.

mlx computes a call on one core of the CPU; edgellm uses all of them. Both are shown, and edgellm on
one core as well. Repacking is shown beside decoding and quantizing anew.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import arguments, interleave, paired_ratio, report
from edgellm_quant import ggml, mlx
from edgellm_quant.formats import FORMATS
from edgellm_quant.formats.mlx import AFFINE_BITS, MLXFormat, split_rows
from edgellm_quant.repack import best_target, repack_rows

ROWS, COLUMNS = 2048, 2048
MEGABYTES = 4 * ROWS * COLUMNS / 1e6
REPACKED = ("Q4_0", "Q8_0", "Q4_K")


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """Give a contestant that returns the seconds that `work` takes."""

    def run() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return run


def compare(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, object]:
    """Time contestants; the first is compared with the last."""
    times = interleave({name: timed(work) for name, work in contestants.items()}, rounds)
    figures: dict[str, object] = {
        f"{name} (MB/s of float32, best)": MEGABYTES / min(each) for name, each in times.items()
    }
    first, *_, last = contestants
    # Speed is the inverse of time: above 1 is faster than the last.
    figures[f"speed, {first} / {last}"] = paired_ratio(times[last], times[first])
    return figures


def against_mlx(x: NDArray[np.float32], fmt: MLXFormat, rounds: int, *, as_json: bool) -> None:
    """Encode and decode one format with both."""
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    options: dict[str, Any] = {"group_size": fmt.group_size, "bits": fmt.bits, "mode": fmt.mode}
    theirs = mx.array(x)
    rows = mlx.quantize_rows(x, fmt)
    parts = [mx.array(part) for part in split_rows(rows, fmt, COLUMNS) if part is not None]
    encoding: dict[str, Callable[[], object]] = {
        "edgellm": lambda: mlx.quantize_rows(x, fmt),
        "edgellm, one core": lambda: mlx.quantize_rows(x, fmt, threads=1),
        "mlx": lambda: mx.eval(mx.quantize(theirs, **options)),
    }
    decoding: dict[str, Callable[[], object]] = {
        "edgellm": lambda: mlx.dequantize_rows(rows, fmt, COLUMNS),
        "edgellm, one core": lambda: mlx.dequantize_rows(rows, fmt, COLUMNS, threads=1),
        "mlx": lambda: mx.eval(mx.dequantize(*parts, dtype=mx.float32, **options)),
    }
    for title, contestants in (("encoding", encoding), ("decoding", decoding)):
        report(f"{title} {fmt.name}", compare(contestants, rounds), as_json=as_json)


def repacking(x: NDArray[np.float32], name: str, rounds: int, *, as_json: bool) -> None:
    """Repack a type of GGUF, and decode and quantize it anew."""
    source = FORMATS[name]
    found = best_target(source)
    assert found is not None
    target = found[0]
    assert isinstance(target, MLXFormat)
    blocks = ggml.quantize_rows(x, source)
    figures = compare(
        {
            "repacked": lambda: repack_rows(blocks, source, target, COLUMNS),
            "quantized anew": lambda: mlx.quantize_rows(
                ggml.dequantize_rows(blocks, source, COLUMNS), target
            ),
        },
        rounds,
    )
    report(f"{name} to {target.name}", figures, as_json=as_json)


def main() -> None:
    """Measure every number of bits, mxfp4, and repacking."""
    args = arguments(__doc__, rounds=9)
    x = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), np.float32) * np.float32(0.02)
    for name in REPACKED:
        repacking(x, name, args.rounds, as_json=args.json)
    if importlib.util.find_spec("mlx") is None:
        print("mlx is not installed (pip install 'mlx[cpu]'): no comparison with it")
        return
    formats = [MLXFormat("affine", bits, 64, "F32") for bits in AFFINE_BITS]
    formats += [MLXFormat("affine", 4, 32, "F32"), MLXFormat("mxfp4", 4, 32, "U8")]
    for fmt in formats:
        against_mlx(x, fmt, args.rounds, as_json=args.json)


if __name__ == "__main__":
    main()
