"""The quality of quantized models at equal size: edgellm's methods against their peers.

    python benchmarks/quality.py --peers /path/to/llama.cpp/bin
    python benchmarks/quality.py --models wide --types Q4_K_M --rows peers,same
    python benchmarks/quality.py --table          # from what has been measured so far

Each reference model (see `references.py`) is quantized to each type by llama.cpp without and with
an importance matrix, and by edgellm with the same types for the same tensors (`same`) and with
types of its own choice in a file of the same size (`free`); for MLX by mlx-lm and by edgellm. Both
sides calibrate on the same text; `corpus.py` says on which, and on what is measured.

Quality is the KL divergence of next-token probabilities from those of the float model, by
`edgellm.evaluate`, with llama.cpp's kernels. MLX folders are measured through their weights
dequantized to float16, so that kernels and activations are the same for all. Files are compared
whole: a receipt in the metadata counts (the one that says how each tensor was made; the quality
that it may hold would be some hundred bytes more). What was measured is kept in the cache, row by
row, and the table is made of all of it; quality does not depend on when a row was measured, and
times are told as they were.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import peers
from corpus import calibration_files, measured_texts
from edgellm.evaluate.compare import compare
from edgellm.evaluate.quality import Scores
from edgellm.evaluate.texts import Text
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint
from edgellm_quant.formats import FORMATS
from peers import Cost, FailedError
from quality_table import write_tables
from references import MissingError, cache_folder, folder, reference

MODELS = ("wide", "smollm2", "gemma3", "stories15m")
TYPES = ("Q2_K", "Q3_K_M", "IQ4_XS", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K")
ROWS = ("peers", "same", "free", "mlx-peers", "mlx")
MLX_BITS = (3, 4, 6)
CALIBRATION_TOKENS = 49_152


@dataclass(frozen=True, slots=True)
class Bench:
    """What a run works with."""

    cache: Path
    results: Path
    binaries: Path | None
    tokens: int
    calibration: int
    effort: str
    threads: int
    limit: float


class Model:
    """A reference model, and what has been made of it and measured."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.bench = bench
        self.name = name
        self.gguf = reference(name, bench.cache)
        self.work = bench.cache / name
        self.work.mkdir(exist_ok=True)
        with GGUFCheckpoint(self.gguf) as opened:
            infos = [opened.info(each) for each in opened.names]
            self.chat = "tokenizer.chat_template" in opened.header.metadata
        self.weights = sum(math.prod(info.shape) for info in infos)
        # K-quants and IQ4_XS need rows of multiples of 256; llama.cpp takes IQ4_NL elsewhere.
        self.wide = all(info.columns % 256 == 0 for info in infos)
        stories = name == "stories15m"
        texts = self.work / f"calibration-{bench.calibration}"
        self.calibration = calibration_files(
            self.gguf, texts, tokens=bench.calibration, stories=stories
        )
        self.joined = texts / "all.txt"
        self._stories = stories

    def texts(self) -> list[Text]:
        """Give what is measured on."""
        return measured_texts(chat=self.chat, stories=self._stories)

    def imatrix(self) -> Path:
        """Give llama.cpp's importance matrix, gathered now if it is not there."""
        target = self.work / "imatrix.gguf"
        if not target.exists():
            bench = self.bench
            cost = peers.imatrix(self.gguf, self.joined, target, bench.binaries, bench.threads)
            self.note("imatrix", "", cost)
        return target

    def note(self, type_name: str, way: str, cost: Cost) -> None:
        """Keep what making a file took."""
        path = self.work / f"{type_name}-{way}.cost.json"
        path.write_text(json.dumps(asdict(cost)))

    def make(self, type_name: str, way: str, making: Callable[[Path], Cost]) -> Path | None:
        """Give the file of a row, made now if it is not there; None if that failed."""
        target = self.work / f"{type_name}-{way}.gguf"
        if target.exists():
            return target
        say(f"{self.name} {type_name} {way}: quantizing")
        try:
            cost = making(target)
        except FailedError as error:
            say(f"{self.name} {type_name} {way}: {error}")
            return None
        self.note(type_name, way, cost)
        return target

    def measure(self, files: dict[tuple[str, str], Path]) -> None:
        """Measure files, by (type, way), that have not been; all of them read the texts at once."""
        fresh = {key: path for key, path in files.items() if not self._scores(*key).exists()}
        if not fresh:
            return
        say(f"{self.name}: measuring {', '.join(' '.join(key) for key in fresh)}")
        found = compare(self.gguf, list(fresh.values()), self.texts(), max_tokens=self.bench.tokens)
        for (key, path), evaluation in zip(fresh.items(), found.evaluations, strict=True):
            save_scores(self._scores(*key), evaluation.scores)
            self._keep(key, path, evaluation)

    def _scores(self, type_name: str, way: str) -> Path:
        return self.bench.results / f"{self.name}-{type_name}-{way}.npz"

    def _keep(self, key: tuple[str, str], path: Path, evaluation: Any) -> None:
        cost = self.work / f"{key[0]}-{key[1]}.cost.json"
        size = self.work / f"{key[0]}-{key[1]}.size"
        nbytes = int(size.read_text()) if size.exists() else path.stat().st_size
        row = {
            "model": self.name,
            "wide": self.wide,
            "type": key[0],
            "way": key[1],
            "bytes": nbytes,
            "weights": self.weights,
            "layer_bits": layer_bits(path) if key[0][:3] != "mlx" else float(key[0][3:]),
            "cost": json.loads(cost.read_text()) if cost.exists() else None,
            "all": asdict(evaluation.quality),
            "texts": {each.name: asdict(each.quality) for each in evaluation.scores},
        }
        row["tokens"] = self.bench.tokens
        target = self._scores(*key).with_suffix(".json")
        target.write_text(json.dumps(row, indent=1))


def save_scores(path: Path, scores: tuple[Scores, ...]) -> None:
    """Keep the values of every token, for bootstraps between files of different runs."""
    arrays: dict[str, Any] = {}
    for each in scores:
        arrays |= {
            f"{each.name}|per_chunk": np.array(each.per_chunk),
            f"{each.name}|nll": each.nll,
            f"{each.name}|reference_nll": each.reference_nll,
            f"{each.name}|kld": each.kld,
            f"{each.name}|agree": each.agree,
        }
    np.savez(path, **arrays)


def layer_bits(path: Path) -> float:
    """Give the bits of a weight in the format that most weights of the layers have."""
    counts: dict[str, int] = {}
    with GGUFCheckpoint(path) as opened:
        for name in opened.names:
            info = opened.info(name)
            if name.startswith("blk.") and len(info.shape) > 1:
                counts[info.format.name] = counts.get(info.format.name, 0) + math.prod(info.shape)
    most = FORMATS[max(counts, key=counts.__getitem__)]
    return 8 * most.type_size / most.block_size


def say(text: str) -> None:
    """Tell how far the work is."""
    print(text, file=sys.stderr, flush=True)


def ours(model: Model, target: Path, **options: Any) -> Cost:
    """Quantize with edgellm by its error-compensating method, on the calibration texts."""
    return peers.ours(
        model.gguf,
        target,
        method="gptq",
        receipt=False,
        calibration=[str(path) for path in model.calibration],
        effort=model.bench.effort,
        threads=model.bench.threads,
        **options,
    )


def gguf_rows(model: Model, types: tuple[str, ...], rows: set[str]) -> None:
    """Make and measure the rows of each type, a type after the other."""
    bench = model.bench
    for asked in types:
        name = "IQ4_NL" if asked == "IQ4_XS" and not model.wide else asked
        files: dict[tuple[str, str], Path | None] = {}
        matrix = model.imatrix()
        for way, importance in (("plain", None), ("imatrix", matrix)):

            def peer(target: Path, importance: Path | None = importance, name: str = name) -> Cost:
                return peers.ggml(
                    model.gguf, target, name, importance, bench.binaries, bench.threads
                )

            files[name, way] = model.make(name, way, peer)
        if "same" in rows:

            def same(target: Path, name: str = name) -> Cost:
                return ours(model, target, type=name)

            files[name, "same"] = model.make(name, "same", same)
        whole = files[name, "imatrix"]
        if "free" in rows and whole is not None:

            def free(target: Path, size: int = whole.stat().st_size) -> Cost:
                return ours(model, target, size=size)

            files[name, "free"] = model.make(name, "free", free)
        model.measure({key: path for key, path in files.items() if path is not None})


def mlx_rows(model: Model, rows: set[str]) -> None:
    """Make and measure MLX folders of each number of bits."""
    source = folder(model.name, model.bench.cache)
    home = model.work / "mlx-home"
    home.mkdir(exist_ok=True)
    for bits in MLX_BITS:
        files: dict[tuple[str, str], Path | None] = {}
        ways = peers.MLX_WAYS if "mlx-peers" in rows else ()
        for way in (*ways, *(("mlx",) if "mlx" in rows else ())):
            if way in ("mlx-gptq", "mlx-dwq") and bits > 4:
                continue

            def make(target: Path, way: str = way, bits: int = bits) -> Cost:
                made = target.with_suffix("")
                if made.exists():
                    raise FailedError(f"{made} is left from a run that was cut off")
                if way == "mlx":
                    cost = ours(model, made, bits=bits, to="mlx")
                else:
                    cost = peers.mlx(
                        source, made, way, bits, model.joined, home=home, limit=model.bench.limit
                    )
                as_gguf(made, target)
                return cost

            files[f"mlx{bits}", way] = model.make(f"mlx{bits}", way, make)
        model.measure({key: path for key, path in files.items() if path is not None})


def as_gguf(made: Path, target: Path) -> None:
    """Dequantize an MLX folder to a float16 GGUF file; note the bytes of its weights beside it."""
    import edgellm

    edgellm.convert(made, target, to="gguf", dtype="f16")
    nbytes = sum(each.stat().st_size for each in made.iterdir() if "token" not in each.name)
    target.with_suffix(".size").write_text(str(nbytes))


def arguments() -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(description="Quality at equal size, against peers.")
    parser.add_argument("--models", default=",".join(MODELS), help="some of: %(default)s")
    parser.add_argument("--types", default=",".join(TYPES), help="some of: %(default)s")
    parser.add_argument("--rows", default=",".join(ROWS), help="some of: %(default)s")
    parser.add_argument("--cache", type=Path, help="where models and results are kept")
    parser.add_argument("--peers", type=Path, help="llama.cpp's binaries (or EDGELLM_PEERS)")
    parser.add_argument("--tokens", type=int, default=4096, help="of each text, half of it scored")
    parser.add_argument("--calibration", type=int, default=CALIBRATION_TOKENS, help="tokens")
    parser.add_argument("--effort", default="balanced", help="of edgellm: fast, balanced or best")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, default=1200, help="seconds for a peer of MLX")
    parser.add_argument("--table", action="store_true", help="only write the tables")
    return parser.parse_args()


def main() -> int:
    """Measure what is asked for and has not been measured; write the tables."""
    args = arguments()
    cache = cache_folder(args.cache)
    results = cache / f"results-{args.tokens}"
    results.mkdir(exist_ok=True)
    given = args.peers or os.environ.get("EDGELLM_PEERS")
    bench = Bench(
        cache, results, Path(given) if given else None, args.tokens, args.calibration, args.effort,
        args.threads, args.limit,
    )  # fmt: skip
    rows = set(args.rows.split(","))
    for name in () if args.table else args.models.split(","):
        try:
            model = Model(bench, name)
        except MissingError as error:
            say(f"{name}: {error}")
            continue
        if rows & {"peers", "same", "free"}:
            gguf_rows(model, tuple(args.types.split(",")), rows)
        if rows & {"mlx-peers", "mlx"}:
            mlx_rows(model, rows)
    print(write_tables(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
