"""Full-text search in Persian and English: normalised terms in FTS5 beside plain text in FTS5.

Persian: PQuAD's validation set, its paragraphs as documents and its answerable questions as
queries; the same with each spelling noise in the documents, then in the questions, and with the
documents written as PDF by a program that shapes Persian (WeasyPrint) and read back by our loader.
English: SciFact of BEIR; published BM25 (pyserini, flat): nDCG@10 .679, R@100 .925.

    python benchmarks/rag_lexical.py            # needs ../shared/data, and WeasyPrint for --pdf
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import math
import random
import sqlite3
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from common import ROOT, report
from edgellm.rag import lexical
from edgellm.rag.lexical import CREATE_TABLE, search
from edgellm.rag.loaders import load
from edgellm.rag.normalise import ZWNJ, search_terms

DATA = ROOT.parent / "shared" / "data"
RAW_TABLE = 'CREATE VIRTUAL TABLE fts USING fts5(norm_tokens, tokenize = "unicode61")'
ARABIC_KEYS = str.maketrans("یک", "يك")
NOISES: dict[str, Callable[[str], str]] = {
    "clean": lambda text: text,
    "Arabic keyboard": lambda text: text.translate(ARABIC_KEYS),
    "ZWNJ to space": lambda text: text.replace(ZWNJ, " "),
    "ZWNJ joined": lambda text: text.replace(ZWNJ, ""),
    "all": lambda text: _all_noise(text),
}


def _all_noise(text: str) -> str:
    """Arabic letters and digits, some vowel marks, and each ZWNJ a space or nothing by chance."""
    draw = random.Random(text)
    digits = str.maketrans("۰۱۲۳۴۵۶۷۸۹", "٠١٢٣٤٥٦٧٨٩")
    mixed = "".join(
        draw.choice((" ", "")) if letter == ZWNJ else letter + "َ" * (draw.random() < 0.05)
        for letter in text
    )
    return mixed.translate(ARABIC_KEYS).translate(digits)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=3000, help="of PQuAD, drawn with seed 0")
    parser.add_argument("--pdf", action="store_true", help="the round trip through PDF too")
    parser.add_argument(
        "--caps", action="store_true", help="what leaving out terms costs and saves"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    figures: dict[str, object] = {}
    passages, queries = pquad(options.questions)
    figures["PQuAD"] = f"{len(passages)} passages, {len(queries)} questions"
    for name, noise in NOISES.items():
        noisy = [noise(passage) for passage in passages]
        asked = [(noise(question), gold) for question, gold in queries]
        figures[f"raw, {name} in documents"] = recall(raw_index(noisy), raw_search, queries)
        index = terms_index(noisy)
        figures[f"terms, {name} in documents"] = recall(index, search_ids, queries)
        if name != "clean":
            clean = terms_index(passages)
            figures[f"terms, {name} in questions"] = recall(clean, search_ids, asked)
    if options.pdf:
        pages = through_pdf(passages)
        figures["raw, through PDF"] = recall(raw_index(pages), raw_search, queries)
        figures["terms, through PDF"] = recall(terms_index(pages), search_ids, queries)
    figures["SciFact nDCG@10, R@100"] = scifact()
    if options.caps:
        figures.update(caps(passages, queries))
    started = time.process_time()
    for passage in passages:
        search_terms(passage)
    seconds = time.process_time() - started
    figures["M characters/s to terms"] = round(sum(map(len, passages)) / seconds / 1e6, 1)
    report("Full-text search", figures, as_json=options.json)


def pquad(count: int) -> tuple[list[str], list[tuple[str, int]]]:
    """Give the paragraphs, and (question, its paragraph's number) of answerable questions."""
    data = json.loads((DATA / "fa" / "pquad_validation.json").read_text(encoding="utf-8"))
    paragraphs = [one for article in data["data"] for one in article["paragraphs"]]
    queries = [
        (asked["question"], number)
        for number, paragraph in enumerate(paragraphs)
        for asked in paragraph["qas"]
        if not asked["is_impossible"]
    ]
    if count < len(queries):
        queries = random.Random(0).sample(queries, count)
    return [paragraph["context"] for paragraph in paragraphs], queries


def terms_index(passages: Sequence[str]) -> sqlite3.Connection:
    """Index normalised terms."""
    return _filled(CREATE_TABLE, map(search_terms, passages))


def raw_index(passages: Sequence[str]) -> sqlite3.Connection:
    """Index the text as it is, by FTS5's own tokenizer."""
    return _filled(RAW_TABLE, passages)


def _filled(table: str, texts: Sequence[str] | map[str]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute(table)
    connection.executemany(
        "INSERT INTO fts(rowid, norm_tokens) VALUES (?, ?)", enumerate(texts, start=1)
    )
    return connection


def search_ids(connection: sqlite3.Connection, question: str, limit: int) -> list[int]:
    """Search as the library does."""
    return [hit.chunk for hit in search(connection, question, limit)]


def raw_search(connection: sqlite3.Connection, question: str, limit: int) -> list[int]:
    """Search for any of the question's words as they are written."""
    words = question.replace('"', " ").split()
    match = " OR ".join(f'"{word}"' for word in words)
    rows = connection.execute(
        "SELECT rowid FROM fts WHERE fts MATCH ? ORDER BY rank LIMIT ?", (match, limit)
    )
    return [row for (row,) in rows]


def recall(
    connection: sqlite3.Connection,
    find: Callable[[sqlite3.Connection, str, int], list[int]],
    queries: Sequence[tuple[str, int]],
) -> str:
    """Give R@1/R@10: the share of questions whose paragraph is first, or among the first ten."""
    first = ten = 0
    for question, gold in queries:
        found = find(connection, question, 10)
        first += found[:1] == [gold + 1]
        ten += gold + 1 in found
    return f"{first / len(queries):.3f}/{ten / len(queries):.3f}"


def through_pdf(passages: Sequence[str]) -> list[str]:
    """Write a page for each passage, and give the pages as our loader reads them."""
    import matplotlib
    import weasyprint

    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    style = (
        f"@font-face {{font-family: f; src: url('{font.as_uri()}')}}"
        "@page {size: 210mm 900mm} p {font-family: f; direction: rtl; break-after: page}"
    )
    body = "".join(f"<p>{escape(passage)}</p>" for passage in passages)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pquad.pdf"
        weasyprint.HTML(string=f"<style>{style}</style>{body}").write_pdf(path)
        pages = [page.text for page in load(path).pages]
    if len(pages) != len(passages):
        raise SystemExit(f"{len(pages)} pages for {len(passages)} passages")
    return pages


def caps(passages: Sequence[str], queries: Sequence[tuple[str, int]]) -> dict[str, object]:
    """Leave out terms that stand in more than a share of the passages, whatever their number.

    Times are of one core, with 100,000 passages that are copies, so that shares stay as they are.
    """
    figures: dict[str, object] = {}
    kept = lexical.MAX_SHARE, lexical.MIN_CHUNKS
    terms = [search_terms(passage) for passage in passages]
    copies = [text for text in terms for _ in range(100_000 // len(terms) + 1)][:100_000]
    random.Random(0).shuffle(copies)
    large, small = _filled(CREATE_TABLE, copies), _filled(CREATE_TABLE, terms)
    for share in (0.05, 0.1, 0.2, 1.0):
        lexical.MAX_SHARE, lexical.MIN_CHUNKS = share, 0
        times = []
        for question, _ in queries[:100]:
            started = time.process_time()
            search(large, question, 100)
            times.append(1000 * (time.process_time() - started))
        times.sort()
        figures[f"share {share}: PQuAD; SciFact; ms p50, p95"] = (
            f"{recall(small, search_ids, queries)}; {scifact()}; "
            f"{times[len(times) // 2]:.0f}, {times[len(times) * 95 // 100]:.0f}"
        )
    lexical.MAX_SHARE, lexical.MIN_CHUNKS = kept
    return figures


def scifact() -> str:
    """Measure SciFact: title and abstract as one text, the 300 test topics, graded judgements."""
    folder = DATA / "retrieval"
    csv.field_size_limit(10_000_000)
    with zipfile.ZipFile(folder / "scifact_original_csv.zip") as archive:
        rows = csv.DictReader(io.TextIOWrapper(archive.open("corpus_train.csv"), "utf-8"))
        documents = {row["doc_id"]: f"{row['title']} {row['abstract']}" for row in rows}
    packed = (folder / "topics.beir-scifact.test.tsv.gz").read_bytes()
    topics = [line.split("\t") for line in gzip.decompress(packed).decode().splitlines()]
    judged: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels.beir-scifact.test.txt").read_text().splitlines():
        topic, _, document, grade = line.split()
        judged.setdefault(topic, {})[document] = int(grade)
    names = list(documents)
    index = terms_index(list(documents.values()))
    gains, recalls = [], []
    for topic, question in topics:
        found = [names[row - 1] for row in search_ids(index, question, 100)]
        grades = judged[topic]
        ideal = sorted(grades.values(), reverse=True)[:10]
        best = sum(grade / math.log2(rank + 2) for rank, grade in enumerate(ideal))
        got = sum(grades.get(name, 0) / math.log2(rank + 2) for rank, name in enumerate(found[:10]))
        relevant = {name for name, grade in grades.items() if grade > 0}
        gains.append(got / best)
        recalls.append(len(relevant & set(found)) / len(relevant))
    gain, part = sum(gains) / len(gains), sum(recalls) / len(recalls)
    return f"{gain:.3f}, {part:.3f}"


if __name__ == "__main__":
    main()
