"""Speed of `LoadedEmbedder.embed` against llama-cpp-python's own, interleaved.

    python benchmarks/embedding.py --rounds 9

The model is all-MiniLM-L6-v2 in float16. The peer is `Llama(embedding=True).create_embedding`, once
with all texts in one call and once in a loop of one text a call; the vectors are compared as well.
Processor time of one thread is counted, so that other programs on the machine change little.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common import arguments, interleave, paired_ratio, report
from edgellm.api.embed import LoadedEmbedder, load_embedder
from references import MissingError, reference

BATCH = 512  # llama-cpp-python's default, and what edgellm fills
TOKENS = 2000  # of all texts of a kind: a second or so

# Sentences of this script's own, English and Persian, long and short.
WORDS = {
    "short": "The old librarian closed the door. / کتابدار پیر در را بست. / Rain again! / "
    "دوباره باران!",
    "long": "When the committee met on the third of May, nobody had read the report, and so the "
    "chair summed it up: the bridge is sound, its paint is not. "
    "کمیته پیش از ظهر جلسه‌ای داشت و هیچ‌کس گزارش را نخوانده بود، پس رئیس آن را خلاصه کرد. " * 2,
}


def texts_of(kind: str, embedder: LoadedEmbedder) -> list[str]:
    """Give texts of so many tokens in all, each with a number of its own."""
    found: list[str] = []
    tokens = 0
    parts = WORDS[kind].split(" / ")
    while tokens < TOKENS:
        found.append(f"{len(found)}: {parts[len(found) % len(parts)]}")
        tokens += len(embedder.tokenize(found[-1]))
    return found


def seconds_of(work: Callable[[], object]) -> float:
    """Give the seconds of processor time that it takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


def measure(path: Path, kind: str, rounds: int, *, as_json: bool) -> None:
    """Compare on one kind of texts."""
    import llama_cpp

    peer = llama_cpp.Llama(
        str(path), embedding=True, n_ctx=BATCH, n_batch=BATCH, n_threads=1,
        n_threads_batch=1, verbose=False,
    )  # fmt: skip

    def together() -> NDArray[np.float32]:
        rows = peer.create_embedding(texts)["data"]
        return np.array([row["embedding"] for row in rows], np.float32)

    def one_by_one() -> NDArray[np.float32]:
        rows = [peer.create_embedding(text)["data"][0]["embedding"] for text in texts]
        return np.array(rows, np.float32)

    with load_embedder(path, threads=1) as embedder:
        texts = texts_of(kind, embedder)
        ours, theirs = embedder.embed(texts), one_by_one()
        theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
        least = float((ours * theirs).sum(axis=1).min())
        seconds = interleave(
            {
                "edgellm": lambda: seconds_of(lambda: embedder.embed(texts)),
                "one call": lambda: seconds_of(together),
                "a loop": lambda: seconds_of(one_by_one),
            },
            rounds,
        )
        tokens = sum(len(embedder.tokenize(text)) for text in texts)
    peer.close()
    result: dict[str, object] = {"texts": len(texts), "tokens": tokens, "threads": 1}
    for name, values in seconds.items():
        result[f"tokens/s, {name} (best)"] = round(tokens / min(values))
    for name in ("one call", "a loop"):
        result[f"speed, edgellm / {name} (median of pairs)"] = paired_ratio(
            seconds[name], seconds["edgellm"]
        )
    result["least cosine to llama-cpp-python's vectors"] = f"{least:.7f}"
    result["rounds"] = rounds
    report(f"embedding, {kind} texts", result, as_json=as_json)


def main() -> None:
    """Measure on short and long texts."""
    args = arguments(__doc__, rounds=9)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            path = reference("minilm", Path(scratch))
        except MissingError as error:
            print(f"skipped: {error}")
            return
        for kind in WORDS:
            measure(path, kind, args.rounds, as_json=args.json)


if __name__ == "__main__":
    main()
