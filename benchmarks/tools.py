"""Small tasks that need a calculator and a search in files: how many does a small model solve?

Each task is asked in both styles (calls as a template writes them, ReAct), with calls kept to the
tools' schemas and without, and without any tools. The tools and notes lie in `tools_data/`.

    python benchmarks/tools.py
    python benchmarks/tools.py --tasks 5 --ways react --show
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path

import edgellm
from edgellm.api.agent import ToolResult
from edgellm.api.chat import LoadedModel

DATA = Path(__file__).resolve().parent / "tools_data"
DIGITS = str.maketrans("۰۱۲۳۴۵۶۷۸۹", "0123456789")
WAYS = (
    "react-required", "react", "react-free", "template-required", "template", "template-free",
    "none",
)  # fmt: skip


def holds(text: str, wanted: str) -> bool:
    """Tell whether a text holds a word, or a number with its sign."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text.translate(DIGITS))
    return re.search(rf"(?<![\w-]){re.escape(wanted)}(?!\w)", text, re.IGNORECASE) is not None


def answered(task: dict[str, str], answer: str) -> bool:
    """Tell whether an answer holds what is asked for, and no number that is neither's."""
    known = set(re.findall(r"\d+", f"{task['question']} {task['answer']}".translate(DIGITS)))
    numbers = re.findall(r"\d+", re.sub(r"(?<=\d),(?=\d{3})", "", answer.translate(DIGITS)))
    return holds(answer, task["answer"]) and set(numbers) <= known


def ask(model: LoadedModel, way: str, question: str) -> tuple[str, tuple[ToolResult, ...], int]:
    """Give the answer, what was called, and the tokens that were written."""
    sampling = edgellm.Sampling(temperature=0)
    if way == "none":
        plain = model.chat(question, sampling=sampling, max_tokens=60)
        return plain.text, (), plain.completion_tokens
    box = edgellm.ToolFile(DATA / "tools.py", timeout=10)
    run = model.run_tools(
        question,
        box,
        style="react" if way.startswith("react") else "template",
        choice="required" if way.endswith("required") else "auto",
        constrain=not way.endswith("free"),
        max_steps=4,
        sampling=sampling,
        max_tokens=200 if way == "template-free" else 60,  # there, of a call as well
    )
    result = run.read()
    return result.text, result.results, result.completion_tokens


def main() -> None:
    """Ask all tasks in all ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--backend")
    parser.add_argument("--file", type=Path, default=DATA / "tasks.json", help="the tasks")
    parser.add_argument("--tasks", type=int, help="only the first so many")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--show", action="store_true", help="print each answer")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    tasks = json.loads(args.file.read_text(encoding="utf-8"))[: args.tasks]
    template = (DATA / "hermes.jinja").read_text(encoding="utf-8")
    print(f"{'way':17}  solved  right call  calls  not run  failed  tokens/task  s/task")
    with edgellm.load(
        args.model, context=4096, backend=args.backend, threads=args.threads, chat_template=template
    ) as model:
        for way in args.ways:
            start = time.perf_counter()
            good = right = tokens = 0
            results: list[ToolResult] = []
            for task in tasks:
                answer, called, written = ask(model, way, task["question"])
                got = [c for c in called if c.ok and holds(c.text, task["answer"])]
                # Without the tool's result a right answer is a guess.
                sure = answered(task, answer) and (way == "none" or bool(got))
                good += sure
                right += bool(got)
                results += called
                tokens += written
                if args.show:
                    calls = [
                        f"{c.call.name}{dict(c.call.arguments)} -> {c.text[:60]}" for c in called
                    ]
                    print(
                        f"  {'+' if sure else '-'} {task['question']} | {calls} | {answer[:80]!r}"
                    )
            seconds = (time.perf_counter() - start) / len(tasks)
            print(
                f"{way:17}  {good:2} / {len(tasks):2}  {right:10}  {len(results):5}  "
                f"{sum(not r.ran for r in results):7}  {sum(r.ran and not r.ok for r in results):6}"
                f"  {tokens / len(tasks):11.0f}  {seconds:6.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
