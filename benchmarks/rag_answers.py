"""Answers from a library of PQuAD paragraphs: are quotes in their sources, and who is refused.

Questions of PQuAD's validation set (../shared/data/fa) that their paragraph answers, and as many
that it does not. The second kind is hard to refuse: the paragraph is about the question's matter,
so that the gate opens, and the model has to see that it says nothing of it.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path

import edgellm
from edgellm.api.rag_eval import Question, evaluate_library

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "fa" / "pquad_validation.json"


def questions(count: int, folder: Path) -> list[Question]:
    """Write every paragraph to a file of the folder; give `count` questions of each kind."""
    known: list[Question] = []
    unknown: list[Question] = []
    number = 0
    for article in json.loads(DATA.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            name = f"{number:05}.txt"
            (folder / name).write_text(paragraph["context"], encoding="utf-8")
            number += 1
            for each in paragraph["qas"]:
                if each.get("is_impossible"):
                    unknown.append(Question(each["question"], answerable=False))
                else:
                    answer = each["answers"][0]["text"]
                    known.append(Question(each["question"], (name,), answer))
    draw = random.Random(0)
    return [*draw.sample(known, count), *draw.sample(unknown, count)]


def main() -> None:
    """Index the paragraphs, ask, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-m", "--model", help="default: the default model")
    parser.add_argument("-k", "--count", type=int, default=2, help="chunks that the model is given")
    parser.add_argument("--questions", type=int, default=30, help="of each kind")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        docs = Path(place) / "docs"
        docs.mkdir()
        asked = questions(options.questions, docs)
        with edgellm.open_library(Path(place) / "l.db", write=True, embedder="none") as library:
            library.index([docs])
            with edgellm.load(options.model) as model:
                report = evaluate_library(library, model, asked, count=options.count)
    print(json.dumps(report.as_dict()) if options.json else "\n".join(report.lines()))


if __name__ == "__main__":
    main()
