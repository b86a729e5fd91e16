"""The peer of `edgellm bench`: llama-cpp-python's own class, `llama_cpp.Llama`, and its loop.

Writes its figures as one JSON line, measured as llama-bench does: a prompt from an empty context,
and apart from it tokens that are written, each after a run that does not count.
"""

from __future__ import annotations

import argparse
import json
import random
import time

import llama_cpp


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("-p", type=int, default=512)
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("-t", type=int, default=2)
    args = parser.parse_args()
    llama = llama_cpp.Llama(
        args.model,
        n_ctx=max(args.p, args.n + 2),
        n_threads=args.t,
        n_threads_batch=args.t,
        n_ubatch=512,
        verbose=False,
    )
    draw = random.Random(0)

    def read() -> float:
        tokens = [draw.randrange(llama.n_vocab()) for _ in range(args.p)]
        llama.reset()
        begin = time.perf_counter()
        llama.eval(tokens)
        return float(args.p / (time.perf_counter() - begin))

    def write(count: int) -> float:
        llama.reset()
        tokens = llama.generate([draw.randrange(llama.n_vocab())], temp=0.0)
        next(tokens)
        begin = time.perf_counter()
        for _ in range(count):
            next(tokens)
        return count / (time.perf_counter() - begin)

    read()
    prompt = read()
    write(1)
    figures = {"prompt_tokens_per_s": prompt, "completion_tokens_per_s": write(args.n)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
