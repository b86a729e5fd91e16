"""Words, meanings and both: SciFact (English) and PQuAD (Persian), nDCG@10 and recall.

The documents go into a library as the indexing would put them, each one chunk (its title as the
heading), and the questions through `retrieve`. SciFact has 5,183 abstracts and 300 claims (BEIR's
test set), PQuAD's validation set 1,103 paragraphs and its answerable questions. The embedder is
all-MiniLM-L6-v2, which does not know Persian: `--forced` shows what its vectors would do there.
Embedding SciFact takes about 5 CPU minutes the first time; --cache FILE keeps the library.
"""

from __future__ import annotations

import argparse
import ast
import csv
import gzip
import io
import json
import math
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgellm.api.embed import load_embedder
from edgellm.rag.chunk import Chunk
from edgellm.rag.embedder import PassageEmbedder
from edgellm.rag.retrieve import retrieve
from edgellm.rag.store import Library, Source, passage_of

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BATCH = 64


def scifact() -> tuple[list[tuple[str, str, str]], dict[str, str], dict[str, dict[str, int]]]:
    """Give documents (id, title, text), queries, and the judged documents of each query."""
    folder = DATA / "retrieval"
    documents = []
    csv.field_size_limit(1 << 24)
    with zipfile.ZipFile(folder / "scifact_original_csv.zip") as archive:
        rows = io.TextIOWrapper(archive.open("corpus_train.csv"), encoding="utf-8")
        for row in csv.DictReader(rows):
            text = row["abstract"]
            try:
                text = " ".join(part.strip() for part in ast.literal_eval(text))
            except (ValueError, SyntaxError):
                text = " ".join(text.strip("[]").split())
            documents.append((row["doc_id"], row["title"], text))
    with gzip.open(folder / "topics.beir-scifact.test.tsv.gz", "rt", encoding="utf-8") as file:
        queries = dict(line.rstrip("\n").split("\t", 1) for line in file)
    judged: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels.beir-scifact.test.txt").read_text().splitlines():
        query, _, document, grade = line.split()
        judged.setdefault(query, {})[document] = int(grade)
    return documents, queries, judged


def pquad() -> tuple[list[tuple[str, str, str]], dict[str, str], dict[str, dict[str, int]]]:
    """Give PQuAD in the same form: each paragraph a document."""
    data = json.loads((DATA / "fa" / "pquad_validation.json").read_text(encoding="utf-8"))
    documents: dict[str, str] = {}
    queries, judged = {}, {}
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            key = documents.setdefault(paragraph["context"], str(len(documents)))
            for question in paragraph["qas"]:
                if not question.get("is_impossible"):
                    queries[str(question["id"])] = question["question"]
                    judged[str(question["id"])] = {key: 1}
    return [(key, "", text) for text, key in documents.items()], queries, judged


def fill(
    library: Library,
    documents: Sequence[tuple[str, str, str]],
    embedder: PassageEmbedder,
    *,
    forced: bool,
) -> float:
    """Put documents into a library; gives the seconds that the embedder took."""
    library.use_embedder(embedder.facts)
    there = {source.path for source in library.sources()}
    rest = [document for document in documents if document[0] not in there]
    seconds = 0.0
    for start in range(0, len(rest), BATCH):
        some = rest[start : start + BATCH]
        passages = {key: passage_of(title, text) for key, title, text in some}
        known = {key: text for key, text in passages.items() if forced or embedder.knows(text)}
        began = time.perf_counter()
        made = dict(zip(known, embedder.embed_passages(list(known.values())), strict=True))
        seconds += time.perf_counter() - began
        for key, title, text in some:
            chunk = Chunk(0, None, 0, len(text), title, text)
            source = Source(0, key, key.encode(), len(text), 0, "text", "ok", None)
            library.put_document(source, [chunk], [made.get(key)])
        print(f"\r{start + len(some)} of {len(rest)} documents", end="", file=sys.stderr)
    print(file=sys.stderr)
    return seconds


def ndcg(found: Sequence[str], judged: dict[str, int], depth: int = 10) -> float:
    """Give nDCG@depth: Järvelin and Kekäläinen 2002, with grades as gains, as trec_eval."""
    gain = sum(judged.get(key, 0) / math.log2(at + 2) for at, key in enumerate(found[:depth]))
    best = sorted(judged.values(), reverse=True)[:depth]
    return gain / sum(grade / math.log2(at + 2) for at, grade in enumerate(best))


def recall(found: Iterable[str], judged: dict[str, int]) -> float:
    """Give the share of the relevant documents that are found."""
    relevant = {key for key, grade in judged.items() if grade}
    return len(relevant & set(found)) / len(relevant)


def measure(
    library: Library,
    embedder: PassageEmbedder,
    queries: dict[str, str],
    judged: dict[str, dict[str, int]],
    weight: float | None,
) -> dict[str, float]:
    """Run all judged queries; weight None is what the library decides."""
    scores: dict[str, list[float]] = {"ndcg@10": [], "r@1": [], "r@10": [], "r@100": []}
    dense = 0
    for key, truth in judged.items():
        result = retrieve(
            library, queries[key], lambda: embedder, count=100, per_source=None, weight=weight
        )
        found = [hit.path for hit in result.hits]
        dense += result.dense_weight > 0
        scores["ndcg@10"].append(ndcg(found, truth))
        for depth in (1, 10, 100):
            scores[f"r@{depth}"].append(recall(found[:depth], truth))
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    return {**means, "dense_questions": dense / len(judged)}


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embedder", default="all-minilm-l6-v2")
    parser.add_argument("--sets", nargs="*", default=["scifact", "pquad"])
    parser.add_argument("--queries", type=int, default=1000, help="of each set, at most")
    parser.add_argument("--documents", type=int, help="of each set, at most: judged ones first")
    parser.add_argument("--weights", type=float, nargs="*", default=[0.0, 0.3, 0.5, 0.7, 1.0])
    parser.add_argument("--forced", action="store_true", help="embed what is not known, too")
    parser.add_argument("--cache", type=Path, help="folder that keeps the libraries")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: dict[str, dict[str, dict[str, float]]] = {}
    with (
        tempfile.TemporaryDirectory() as temporary,
        load_embedder(options.embedder) as model,
    ):
        embedder = PassageEmbedder(model, options.embedder)
        for name in options.sets:
            documents, queries, judged = scifact() if name == "scifact" else pquad()
            # What is judged comes first, so that --documents N leaves out others.
            wanted = {key for truth in judged.values() for key in truth}
            documents.sort(key=lambda document: document[0] not in wanted)
            documents = documents[: options.documents]
            place = options.cache or Path(temporary)
            place.mkdir(parents=True, exist_ok=True)
            judged = dict(list(judged.items())[: options.queries])
            path = place / f"{name}{'-forced' if options.forced else ''}.db"
            with Library(path, write=True) as library:
                fill(library, documents, embedder, forced=options.forced)
                weights: list[float | None] = [None, *options.weights]
                results[name] = {
                    "decided" if weight is None else f"weight {weight:g}": measure(
                        library, embedder, queries, judged, weight
                    )
                    for weight in weights
                }
                known = sum(embedder.knows(queries[key]) for key in judged) / len(judged)
                results[name]["knows"] = {
                    "questions": known,
                    "texts": library.counts()[2] / max(library.counts()[1], 1),
                }
    if options.json:
        print(json.dumps(results))
        return
    for name, rows in results.items():
        print(name)
        for row, values in rows.items():
            print(f"  {row:12}", "  ".join(f"{key} {value:.4f}" for key, value in values.items()))


if __name__ == "__main__":
    main()
