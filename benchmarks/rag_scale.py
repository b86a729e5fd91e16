"""The index of signs at 100,000 and a million vectors, and a whole search in real texts.

Vectors: clusters of 384 dimensions (a centre for each 100 vectors, with noise of 0.9 times its
length), of length 1, and a common direction added as embedders have it; questions are drawn alike.
Each question is asked of the index and of numpy (all products, float32), one after the other, so
that both see the same machine; times are CPU milliseconds of one thread. recall@10 is against
numpy. Private memory is what the process
has more of (RssAnon) after opening the library and asking, in a process of its own that holds
neither numpy's copy nor what the index was made from.

`--texts N` measures full retrieval (words, vectors, fusion, texts; not the embedding of the
question) with chunks of about 700 characters cut from WikiText-2, SciFact and PQuAD; where they do
not suffice they come again with one word in eight replaced by another of the same text.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported

import numpy as np
import numpy.typing as npt

from edgellm.rag.index import open_index
from edgellm.rag.retrieve import retrieve
from edgellm.rag.store import EmbedderFacts, Library, text_digest

DIMENSION = 384
FACTS = EmbedderFacts("made-up", "made-up", "made-up", DIMENSION)
PER_CLUSTER, NOISE = 100, 0.9
BLOCK = 10_000
Floats = npt.NDArray[np.float32]


def clustered(count: int, seed: int, centres: Floats) -> Floats:
    """Draw vectors: float32 (count, DIMENSION) of length 1, as float16 holds them."""
    random_ = np.random.default_rng(seed)
    own = centres[random_.integers(len(centres), size=count)]
    noise = random_.normal(size=own.shape).astype(np.float32) * (NOISE / DIMENSION**0.5)
    vectors = own + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    stored: Floats = vectors.astype(np.float16).astype(np.float32)
    return stored


def centres_of(count: int) -> Floats:
    """Draw the centres of clusters; all lie a little in one direction."""
    random_ = np.random.default_rng(0)
    centres = random_.normal(size=(max(count // PER_CLUSTER, 1), DIMENSION)).astype(np.float32)
    centres += random_.normal(size=DIMENSION).astype(np.float32) * 0.5
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    return centres


def write(path: Path, vectors: Iterator[Floats], texts: Iterator[str] | None = None) -> None:
    """Write a library fast: many chunks of a source in a transaction, as `put_document` would."""
    from edgellm.rag.normalise import search_terms

    with Library(path, write=True) as library:
        library.use_embedder(FACTS)
        number = 0
        for block in vectors:
            with library.transaction():
                chunks, blobs, terms = [], [], []
                for vector in block.astype("<f2"):
                    number += 1
                    text = next(texts) if texts is not None else "x"
                    source = 1 + (number - 1) // 50
                    chunks.append((number, source, number, len(text), text, text_digest(text)))
                    blobs.append((number, vector.tobytes()))
                    terms.append((number, search_terms(text)))
                write = library.connection.executemany
                first, last = chunks[0][1], chunks[-1][1]
                write(
                    "INSERT OR IGNORE INTO source VALUES (?, ?, NULL, 0, 0, 'text', 'ok', NULL)",
                    ((source, f"/{source}.txt") for source in range(first, last + 1)),
                )
                write(
                    "INSERT INTO chunk VALUES (?, ?, ?, NULL, 0, ?, '', ?, ?, 1)",
                    chunks,
                )
                write("INSERT INTO vec VALUES (?, ?)", blobs)
                write("INSERT INTO fts(rowid, norm_tokens) VALUES (?, ?)", terms)
            print(f"\r{number} chunks", end="", file=sys.stderr)
        print(file=sys.stderr)


def blocks(count: int, centres: Floats) -> Iterator[Floats]:
    """Give the vectors of a library block by block."""
    for start in range(0, count, BLOCK):
        yield clustered(min(BLOCK, count - start), 1 + start, centres)


def anonymous() -> int:
    """Give the private memory of this process in bytes."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


def child(path: Path, count: int, questions: int) -> None:
    """Ask the questions in a process that holds nothing else, and print its memory."""
    queries = clustered(questions, 10**6 + 1, centres_of(count))
    before = anonymous()
    with Library(path) as library:
        for query in queries:
            with library.reading():
                open_index(library).search(library, query, 10)
        print(json.dumps({"private": anonymous() - before}))


def vectors(folder: Path, count: int, questions: int) -> dict[str, float]:
    """Measure the index beside numpy."""
    path, centres = folder / f"{count}.db", centres_of(count)
    if not path.exists():
        write(path, blocks(count, centres))
    with Library(path) as library, library.reading():
        began = time.process_time()
        open_index(library)
        build = time.process_time() - began
    whole = np.concatenate(list(blocks(count, centres)))
    queries = clustered(questions, 10**6 + 1, centres)
    ours, theirs, good = [], [], 0
    with Library(path) as library:
        for query in queries:
            began = time.process_time()
            products = whole @ query
            top = np.argpartition(-products, 10)[:10]
            theirs.append(time.process_time() - began)
            began = time.process_time()
            with library.reading():
                found = open_index(library).search(library, query, 10)
            ours.append(time.process_time() - began)
            good += len({chunk - 1 for chunk, _ in found} & set(top.tolist()))
    del whole
    command = [sys.executable, __file__, "--child", str(path), str(count), str(questions)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ms = {
        f"{name}_{each}_ms": 1000 * float(np.percentile(times, each))
        for name, times in (("index", ours), ("numpy", theirs))
        for each in (50, 95)
    }
    return {
        "chunks": count,
        "recall@10": good / (10 * questions),
        **ms,
        "p50_ratio": ms["index_50_ms"] / ms["numpy_50_ms"],
        "p95_ratio": ms["index_95_ms"] / ms["numpy_95_ms"],
        "private_mb": json.loads(out)["private"] / 1e6,
        "build_s": build,
    }


def real_texts(count: int) -> Iterator[str]:
    """Cut real texts into chunks of about 700 characters, with changes when they come again."""
    from rag_fusion import DATA, pquad, scifact

    texts = [text for _, _, text in scifact()[0]] + [text for _, _, text in pquad()[0]]
    wiki = (DATA / "text" / "wiki.test.raw").read_text(encoding="utf-8")
    texts += [part for part in wiki.split("\n") if len(part) > 200]
    chance = random.Random(1)
    given, turn = 0, 0
    while True:
        for text in texts:
            words = text.split()
            for start in range(0, len(words), 110):
                some = words[start : start + 110]
                if turn:
                    some = [chance.choice(words) if chance.random() < 0.125 else w for w in some]
                yield " ".join(some)
                given += 1
                if given == count:
                    return
        turn += 1


class MadeUp:
    """An embedder whose question's vector is given: embedding is not measured here."""

    facts = FACTS

    def __init__(self, query: Floats) -> None:
        self._query = query

    def knows(self, _text: str) -> bool:
        """Say that any script is known."""
        return True

    def embed_query(self, _question: str) -> Floats:
        """Give the vector."""
        return self._query


def retrieval(folder: Path, count: int, questions: int) -> dict[str, float]:
    """Measure whole searches with the questions of SciFact and PQuAD."""
    from rag_fusion import pquad, scifact

    path, centres = folder / f"texts-{count}.db", centres_of(count)
    if not path.exists():
        write(path, blocks(count, centres), real_texts(count))
    english, persian = scifact(), pquad()
    asked = [english[1][key] for key in list(english[2])[: questions // 2]]
    asked += [persian[1][key] for key in list(persian[2])[: questions - len(asked)]]
    queries = clustered(len(asked), 10**6 + 1, centres)
    times: dict[str, list[float]] = {"both": [], "words": []}
    with Library(path) as library:
        with library.reading():
            open_index(library)
        for question, query in zip(asked, queries, strict=True):
            gives = {"both": partial(MadeUp, query), "words": None}
            for name, give in gives.items():
                began = time.process_time()
                retrieve(library, question, give)  # type: ignore[arg-type]
                times[name].append(time.process_time() - began)
    return {
        "chunks": count,
        **{
            f"{name}_{each}_ms": 1000 * float(np.percentile(values, each))
            for name, values in times.items()
            for each in (50, 95)
        },
    }


def main() -> None:
    """Measure, and print JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[100_000])
    parser.add_argument("--texts", type=int, default=0, help="chunks of real text; 0 for none")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="keeps the libraries")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(Path(options.child[0]), int(options.child[1]), int(options.child[2]))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for size in options.sizes:
            print(json.dumps(vectors(folder, size, options.questions)), flush=True)
        if options.texts:
            print(json.dumps(retrieval(folder, options.texts, options.questions)), flush=True)


if __name__ == "__main__":
    main()
