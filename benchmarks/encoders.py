"""Quality of a quantized encoder, all-MiniLM-L6-v2: its vectors, and what they find.

    python benchmarks/encoders.py --peers /path/to/llama.cpp/bin

An encoder has no next-token probabilities. What counts is how near the vectors of texts stay to
those of the float model (mean cosine over documents), and whether a search by them finds the same:
nDCG@10 (Jarvelin and Kekalainen 2002) on a part of SciFact, all judged documents and 700 others.
All vectors come from llama.cpp, through edgellm.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import peers
from corpus import Retrieval, calibration_files
from edgellm.api.embed import load_embedder
from references import cache_folder, reference

TYPES = ("Q2_K", "Q3_K_M", "IQ4_NL", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K")
TEXT = 256  # tokens that the model was trained to read of a text
AT = 10

Vectors = NDArray[np.float32]


def vectors(path: Path, texts: list[str], threads: int) -> Vectors:
    """Give unit vectors of texts: (texts, columns)."""
    with load_embedder(path, threads=threads) as embedder:
        embedder.max_tokens = TEXT
        return embedder.embed(texts, truncate=True)


def ndcg(queries: Vectors, documents: Vectors, data: Retrieval) -> float:
    """Give the mean normalized discounted cumulative gain of the first ten found."""
    numbers = list(data.documents)
    best = np.argsort(-(queries @ documents.T), axis=1)[:, :AT]
    discount = 1 / np.log2(np.arange(2, AT + 2))
    found = []
    for row, query in zip(best, data.queries, strict=True):
        grades = data.judged[query]
        gains = np.array([grades.get(numbers[at], 0) for at in row])
        ideal = np.sort(list(grades.values()))[::-1][:AT]
        total = float((ideal * discount[: len(ideal)]).sum())
        found.append(float((gains * discount).sum()) / total if total else 0.0)
    return math.fsum(found) / len(found)


def main() -> int:
    """Measure every type and print the table."""
    parser = argparse.ArgumentParser(description="Quality of a quantized encoder.")
    parser.add_argument("--types", default=",".join(TYPES), help="some of: %(default)s")
    parser.add_argument("--ways", default="plain,imatrix,same", help="some of: %(default)s")
    parser.add_argument("--cache", type=Path, help="where models and results are kept")
    parser.add_argument("--peers", type=Path, help="llama.cpp's binaries (or EDGELLM_PEERS)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    cache = cache_folder(args.cache)
    given = args.peers or os.environ.get("EDGELLM_PEERS")
    binaries = Path(given) if given else None
    model = reference("minilm", cache)
    work = cache / "minilm"
    texts = calibration_files(model, work / "calibration", tokens=49_152, stories=False)
    data = Retrieval()
    documents, queries = list(data.documents.values()), list(data.queries.values())
    wanted = vectors(model, documents, args.threads)
    base = ndcg(vectors(model, queries, args.threads), wanted, data)
    print(f"{len(documents)} documents, {len(queries)} queries; float nDCG@10 {base:.4f}\n")
    print("| type | MB | ggml: 1 - cosine, nDCG | imatrix | same types |")
    print("| --- | --- | --- | --- | --- |")
    matrix = work / "imatrix.gguf"
    if "imatrix" in args.ways and not matrix.exists():
        peers.imatrix(model, work / "calibration" / "all.txt", matrix, binaries, args.threads)
    for name in args.types.split(","):
        cells = [name, ""]
        for way in args.ways.split(","):
            path, kept = work / f"{name}-{way}.gguf", work / f"{name}-{way}.json"
            if not path.exists():
                if way == "same":
                    cost = peers.ours(
                        model, path, type=name, method="gptq", calibration=[*map(str, texts)]
                    )
                else:
                    importance = matrix if way == "imatrix" else None
                    cost = peers.ggml(model, path, name, importance, binaries, args.threads)
                (work / f"{name}-{way}.cost.json").write_text(json.dumps(asdict(cost)))
            if not kept.exists():
                given_vectors = vectors(path, documents, args.threads)
                cosine = float((given_vectors * wanted).sum(axis=1).mean())
                found = ndcg(vectors(path, queries, args.threads), given_vectors, data)
                kept.write_text(json.dumps({"cosine": cosine, "ndcg": found}))
            row = json.loads(kept.read_text())
            cells[1] = f"{path.stat().st_size / 1e6:.2f}"
            cells.append(f"{1 - row['cosine']:.5f}, {row['ndcg']:.4f}")
        print("| " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
