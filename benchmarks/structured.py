"""Answers under JSON schemas: are they obeyed, and what does a token cost?

    python benchmarks/structured.py                       # both backends
    python benchmarks/structured.py --backend llama_cpp --prompts 20 --tokens 64

The schemas and prompts are those of `structured_schemas.json`. Each answer is drawn (temperature
0.8) to its end or to --most tokens, and what ended is validated by the jsonschema package, formats
too. Contexts of the same model write by turns, token by token, one freely, one under a schema, and
one with what has to follow in one batch, so that all see the same noise; what the constraint itself
takes is measured apart. MLX runs a folder that is converted from the same file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

import edgellm
from common import default_model, report
from edgellm.backends.base import Model, Sampling
from edgellm.device.memory import DRAFT_MAX
from edgellm.generate.constraint import JsonSchema, compile_constraint
from edgellm.generate.constraint_engine import engine_of
from edgellm.generate.drafts import Drafts
from edgellm.generate.forced import Forced
from edgellm.generate.prompt import chat_tokens
from edgellm.generate.template import ChatTemplate, Message

SCHEMAS = Path(__file__).parent / "structured_schemas.json"
GOAL = 1.15
Figures = dict[str, object]


def never() -> bool:
    """Cancel nothing."""
    return False


def questions(count: int) -> Iterator[tuple[str, dict[str, Any], str, int]]:
    """Give names, schemas, prompts and seeds: every schema once before any comes again."""
    schemas = json.loads(SCHEMAS.read_text(encoding="utf-8"))
    most = max(len(entry["prompts"]) for entry in schemas.values())
    every = [
        (name, entry["schema"], entry["prompts"][turn])
        for turn in range(most)
        for name, entry in schemas.items()
        if turn < len(entry["prompts"])
    ]
    for number, question in zip(range(count), itertools.cycle(every)):
        yield *question, number


def obedience(model: edgellm.LoadedModel, count: int, most: int) -> Figures:
    """Answer the prompts and validate what is written."""
    ended = cut = tokens = 0
    broken, seen = [], set()
    for name, schema, prompt, seed in questions(count):
        seen.add(name)
        result = model.chat(
            f"{prompt} Answer in JSON.",
            constraint=JsonSchema(schema),
            max_tokens=most,
            sampling=Sampling(seed=seed),
        )
        tokens += result.completion_tokens
        if result.finish_reason != "stop":
            cut += 1
            continue
        ended += 1
        validator = validator_for(schema, Draft202012Validator)
        checker = validator.FORMAT_CHECKER
        try:
            right = validator(schema, format_checker=checker).is_valid(json.loads(result.text))
        except ValueError:
            right = False
        if not right:
            broken.append(f"{name}: {result.text}")
    for text in broken:
        print(f"not valid: {text}")
    return {
        "schemas": len(seen),
        "prompts": count,
        "written to their end": ended,
        f"cut at {most} tokens": cut,
        "valid of those that ended": ended - len(broken),
        "tokens": tokens,
    }


class Writer:
    """A context that writes behind prompts, and the seconds that its tokens took.

    Args:
        model: it.
        bound: whether it writes under the schema.
        ahead: whether what has to follow is evaluated in one batch.
    """

    def __init__(self, model: Model, *, bound: bool, ahead: bool = False) -> None:
        self._model = model
        self._bound = bound
        self._ahead = ahead
        self._context = model.open_context(1024, drafts=DRAFT_MAX if ahead else 0)
        self._asked: tuple[list[int], Any, int] = ([], None, 0)
        self.seconds = 0.0

    def ask(self, prompt: list[int], schema: Any, seed: int) -> None:
        """Begin an answer and write its first token."""
        self._asked = (prompt, schema, seed)
        self._context.prefill(prompt, Sampling(seed=seed), never)
        if self._bound:
            constraint = compile_constraint(self._model, JsonSchema(schema))
            self._context.constrain(constraint)
            if self._ahead:
                self._context.speculate(Forced(constraint, Drafts()))
        self._context.next_piece()

    def step(self) -> None:
        """Write a token; behind the end of an answer, begin another one."""
        begin = time.perf_counter()
        piece = self._context.next_piece()
        self.seconds += time.perf_counter() - begin
        if piece is None and self._bound:
            prompt, schema, seed = self._asked
            self.ask(prompt, schema, seed + 1000)

    def close(self) -> None:
        """Free the memory."""
        self._context.close()


def cost(model: edgellm.LoadedModel, count: int, each: int) -> Figures:
    """Time a token without a constraint, under one, and with what has to follow in one batch."""
    native = model.model
    template = ChatTemplate(native.chat_template or "", bos=native.bos_text, eos=native.eos_text)
    free, bound = Writer(native, bound=False), Writer(native, bound=True)
    ahead = Writer(native, bound=True, ahead=True)
    writers = (free, bound, ahead)
    ratios: dict[Writer, list[float]] = {bound: [], ahead: []}
    total = dict.fromkeys(writers, 0.0)
    for _, schema, question, seed in questions(count):
        prompt = chat_tokens(native, template, [Message("user", question)])
        for writer in writers:
            writer.ask(prompt, schema, seed)
            writer.seconds = 0.0
        for step in range(each):
            for writer in writers if step % 2 else reversed(writers):
                writer.step()
        for writer in writers:
            total[writer] += writer.seconds
        for writer, found in ratios.items():
            found.append(writer.seconds / free.seconds)
    for writer in writers:
        writer.close()
    return {
        "tokens timed of each": count * each,
        "milliseconds per free token": 1000 * total[free] / (count * each),
        "time per token, under a schema / free": total[bound] / total[free],
        "the same, worst schema": max(ratios[bound]),
        "goal": f"at most {GOAL}",
        "with what has to follow in one batch / free": total[ahead] / total[free],
        "the same, worst schema, in one batch": max(ratios[ahead]),
    }


def beginnings(model: edgellm.LoadedModel) -> Figures:
    """Time what comes before the first token, and what each token asks of the constraint."""
    native = model.model
    begin = time.perf_counter()
    engine_of(native)
    compile_constraint(native, JsonSchema({"const": 1}))
    vocabulary = time.perf_counter() - begin
    compiles, masks, takes = [], [], []
    for _, schema, _, _ in questions(len(json.loads(SCHEMAS.read_text(encoding="utf-8")))):
        begin = time.perf_counter()
        constraint = compile_constraint(native, JsonSchema(schema))
        compiles.append(time.perf_counter() - begin)
        for number in range(60):
            begin = time.perf_counter()
            if constraint.complete:
                break
            allowed = constraint.mask().nonzero()[0]
            middle = time.perf_counter()
            token = int(allowed[(number * 7919) % len(allowed)])
            if token in native.end_tokens:
                break
            masks.append(middle - begin)
            begin = time.perf_counter()
            constraint.take(token)
            takes.append(time.perf_counter() - begin)
    masks.sort()
    return {
        "the vocabulary, once a model, ms": 1000 * vocabulary,
        "a schema, check and compile, median ms": 1000 * statistics.median(compiles),
        "the same, worst ms": 1000 * max(compiles),
        "a mask, median ms": 1000 * statistics.median(masks),
        "a mask, 99 of 100 ms": 1000 * masks[len(masks) * 99 // 100],
        "taking a token, median ms": 1000 * statistics.median(takes),
    }


def first_token(model: edgellm.LoadedModel, rounds: int) -> Figures:
    """Time the first token of an answer whose prompt is new, with a new schema and without."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(rounds):
        for bound in (False, True) if number % 2 else (True, False):
            schema = {"type": "object", "properties": {f"name {number}": {"type": "string"}}}
            begin = time.perf_counter()
            stream = model.stream(
                f"{number} {bound}: tell me about the sea.",
                constraint=JsonSchema(schema) if bound else None,
                max_tokens=2,
            )
            next(iter(stream))
            seconds[bound].append(time.perf_counter() - begin)
            stream.read()
    ratio = [a / b for a, b in zip(seconds[True], seconds[False], strict=True)]
    return {
        "first token with a new schema, ms": 1000 * statistics.median(seconds[True]),
        "first token, schema / none, median": statistics.median(ratio),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["llama_cpp", "mlx"])
    parser.add_argument("--model", type=Path, help="a GGUF file; the default model without")
    parser.add_argument("--prompts", type=int, default=50, help="that are answered")
    parser.add_argument("--most", type=int, default=300, help="tokens of an answer")
    parser.add_argument("--timed", type=int, default=38, help="prompts whose tokens are timed")
    parser.add_argument("--tokens", type=int, default=32, help="that are timed of each")
    parser.add_argument("--json", action="store_true", help="one JSON object a backend on stdout")
    given = parser.parse_args()
    source = given.model or default_model()
    for backend in [given.backend] if given.backend else ["llama_cpp", "mlx"]:
        with tempfile.TemporaryDirectory() as folder:
            path = source
            if backend == "mlx":
                path = Path(folder) / "model.mlx"
                edgellm.convert(source, path, to="mlx")
            with edgellm.load(path, backend=backend, context=2048) as model:
                figures = beginnings(model)
                figures |= first_token(model, 10)
                figures |= cost(model, given.timed, given.tokens)
                figures |= obedience(model, given.prompts, given.most)
        report(f"structured output, {backend}", figures, as_json=given.json)


if __name__ == "__main__":
    main()
