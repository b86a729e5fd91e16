"""The texts of `quality.py`: what is calibrated on, and other texts that quality is measured on.

Calibration takes the first third of each file of ../shared/data/text/calibration and the first
third of the paragraphs of PQuAD (Persian), as many tokens of each. Tests are WikiText-2's test set,
the last paragraphs of PQuAD, the end of the file of programs, and conversations that the package
measures on, in the model's own chat template where it has one. stories15M, which knows stories
alone, is calibrated and measured on stories too. Nothing is in both.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

from common import ROOT
from edgellm.evaluate.texts import Text

__all__ = ["Retrieval", "calibration_files", "measured_texts", "sentences"]

DATA = ROOT.parent / "shared" / "data"
FILES = ("c4", "wiki", "code", "technical", "multilingual")
PART = 300_000  # characters that are looked at of a text


def calibration_files(gguf: Path, folder: Path, *, tokens: int, stories: bool) -> list[Path]:
    """Write the calibration texts for a model, about so many tokens in all; give the files.

    `all.txt` in the same folder holds them joined, for tools that take one file.
    """
    texts = {name: _calibration(name) for name in FILES}
    texts["persian"] = "\n".join(_paragraphs()[: len(_paragraphs()) // 3])
    if stories:
        texts = {"stories": _calibration("tiny"), "c4": texts["c4"]}
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, text in texts.items():
        path = folder / f"{name}.txt"
        if not path.exists():
            path.write_text(_cut(gguf, text[:PART], tokens // len(texts)), encoding="utf-8")
        found.append(path)
    joined = "\n".join(path.read_text(encoding="utf-8") for path in found)
    (folder / "all.txt").write_text(joined, encoding="utf-8")
    return found


def measured_texts(*, chat: bool, stories: bool) -> list[Text]:
    """Give the texts to measure on; `chat` where the model has a chat template."""
    wiki = (DATA / "text" / "wiki.test.raw").read_text(encoding="utf-8")
    found = [Text("wiki", "en", content=wiki[:PART])]
    if stories:
        tiny = _file("tiny")
        return [Text("stories", "en", content=tiny[-PART // 2 :]), *found]
    paragraphs = _paragraphs()
    found.append(Text("persian", "fa", content="\n".join(paragraphs[-200:])))
    found.append(Text("code", "code", content=_file("code")[-PART:]))
    if chat:
        from edgellm.quantization.calibration import evaluation_texts

        found += [text for text in evaluation_texts() if text.conversations]
    return found


def _file(name: str) -> str:
    path = DATA / "text" / "calibration" / f"{name}.utf8"
    return path.read_text(encoding="utf-8", errors="replace")


def _calibration(name: str) -> str:
    text = _file(name)
    return text[: len(text) // 3]


def _paragraphs() -> list[str]:
    articles = json.loads((DATA / "fa" / "pquad_validation.json").read_text(encoding="utf-8"))
    return [each["context"] for one in articles["data"] for each in one["paragraphs"]]


def _cut(gguf: Path, text: str, tokens: int) -> str:
    """Give the beginning of a text that is about so many tokens long."""
    import llama_cpp

    model = llama_cpp.Llama(str(gguf), vocab_only=True, verbose=False)
    try:
        size = len(model.tokenize(text.encode(), add_bos=False))
    finally:
        model.close()
    return text[: min(len(text), len(text) * tokens // size)]


class Retrieval:
    """A part of SciFact (Wadden et al. 2020) as BEIR has it: its queries, and some documents.

    All documents that a query is judged on are in it, and others drawn with a fixed seed.
    """

    def __init__(self, others: int = 700) -> None:
        folder = DATA / "retrieval"
        self.judged: dict[str, dict[str, int]] = {}
        for line in (folder / "qrels.beir-scifact.test.txt").read_text().splitlines():
            query, _, document, grade = line.split()
            self.judged.setdefault(query, {})[document] = int(grade)
        with gzip.open(folder / "topics.beir-scifact.test.tsv.gz", "rt", encoding="utf-8") as file:
            rows = [line.rstrip("\n").split("\t", 1) for line in file]
        self.queries = {number: text for number, text in rows if number in self.judged}
        documents = _documents(folder / "scifact_original_csv.zip")
        needed = {number for grades in self.judged.values() for number in grades}
        rest = sorted(documents.keys() - needed)
        chosen = needed | set(random.Random(0).sample(rest, min(others, len(rest))))
        self.documents = {number: documents[number] for number in sorted(chosen & documents.keys())}


def _documents(path: Path) -> dict[str, str]:
    """Read the abstracts: title and text by number."""
    with zipfile.ZipFile(path) as archive:
        data = archive.read("corpus_train.csv").decode("utf-8")
    csv.field_size_limit(2**20)
    rows: Any = csv.DictReader(io.StringIO(data))
    # An abstract is written as a list of quoted sentences; the brackets are no words of it.
    return {row["doc_id"]: f"{row['title']} {row['abstract'].strip('[]')}" for row in rows}


def sentences(count: int) -> list[str]:
    """Give lines of WikiText-2 and PQuAD, for comparing vectors one by one."""
    wiki = (DATA / "text" / "wiki.test.raw").read_text(encoding="utf-8").splitlines()
    long = [line.strip() for line in wiki if len(line) > 80]
    return long[:count]
