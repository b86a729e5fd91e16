"""Speed with 0, 1 and 2 LoRA adapters on every linear weight, and what loading them costs."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import gguf
import numpy as np

import edgellm
from common import interleave, paired_ratio, report
from edgellm.backends.base import Context, Sampling
from edgellm.models.adapter import prepare_adapters
from edgellm.models.resolve import resolve
from edgellm_converters.checkpoints.gguf import GGUFCheckpoint

GREEDY = Sampling(temperature=0)
ALPHA = 16.0


def never() -> bool:
    """Never ask for a stop."""
    return False


def write_adapter(path: Path, base: Path, rank: int, seed: int) -> None:
    """Write random matrices in float16 for every linear weight of the layers of a GGUF model."""
    rng = np.random.default_rng(seed)
    with GGUFCheckpoint(base) as checkpoint:
        writer = gguf.GGUFWriter(path, str(checkpoint.header.metadata["general.architecture"]))
        writer.add_string("general.type", "adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", ALPHA)
        for name in checkpoint.names:
            shape = checkpoint.info(name).shape
            if name.startswith("blk.") and len(shape) == 2:
                rows, columns = shape
                for end, size in (("a", (rank, columns)), ("b", (rows, rank))):
                    values = 0.01 * rng.standard_normal(size)
                    writer.add_tensor(f"{name}.lora_{end}", values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def seconds_reading(context: Context, tokens: list[int]) -> float:
    """Evaluate a prompt that shares nothing with what the context holds."""
    context.prefill([tokens[0] + 1, *tokens[1:]], GREEDY, never)
    start = time.perf_counter()
    context.prefill(tokens, GREEDY, never)
    return time.perf_counter() - start


def seconds_writing(context: Context, tokens: list[int], count: int) -> float:
    """Write tokens behind a short prompt; the first one is not counted."""
    context.prefill(tokens[:8], GREEDY, never)
    context.next_piece()
    start = time.perf_counter()
    for _ in range(count):
        context.next_piece()
    return time.perf_counter() - start


def main() -> None:
    """Print times as ratios to those without an adapter: 1.1 is a tenth more time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="repetitions, interleaved")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--model", help="a GGUF model  [default: the default model]")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=48, help="tokens that are written")
    args = parser.parse_args()
    base = resolve(args.model)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGELLM_CACHE"] = folder
        files = [Path(folder) / f"adapter-{number}.gguf" for number in (1, 2)]
        for number, file in enumerate(files):
            write_adapter(file, base, args.rank, number)

        def loading(count: int) -> float:
            start = time.perf_counter()
            edgellm.load(base, lora=files[:count], context=512).close()
            return time.perf_counter() - start

        loads = interleave({str(n): partial(loading, n) for n in (0, 1, 2)}, args.rounds)
        start = time.perf_counter()
        prepare_adapters([(str(files[0]), 1.0)], base)
        checking = time.perf_counter() - start
        with edgellm.load(base, lora=files, context=512) as model:
            tokens = model.tokenize("the boat on the river " * args.prompt)[: args.prompt]
            contexts = {}
            for count in (0, 1, 2):
                context = contexts[str(count)] = model.model.open_context(512)
                context.adapt([float(number < count) for number in range(2)])
            reading = interleave(
                {n: partial(seconds_reading, c, tokens) for n, c in contexts.items()},
                args.rounds,
            )
            writing = interleave(
                {n: partial(seconds_writing, c, tokens, args.tokens) for n, c in contexts.items()},
                args.rounds,
            )
            for context in contexts.values():
                context.close()
        figures: dict[str, object] = {"MB of an adapter": files[0].stat().st_size / 1e6}
        for what, values in (("loading", loads), ("a prompt", reading), ("writing", writing)):
            for many in ("1", "2"):
                figures[f"time of {what}, {many} to 0"] = paired_ratio(values[many], values["0"])
        figures["seconds to load without"] = min(loads["0"])
        figures["seconds to check one"] = checking
        report(f"adapters of rank {args.rank} on {base.stem}", figures, as_json=args.json)


if __name__ == "__main__":
    main()
