"""Speed with guesses over speed without, and whether the tokens are the same.

Tasks whose answers repeat their prompt (they edit, quote, reformat it), and tasks whose answers do
not. Each is answered with and without guesses in turn; the first answers do not count.

    python benchmarks/speculation.py
    python benchmarks/speculation.py --cache-type q8_0
    python benchmarks/speculation.py --backend mlx --model FOLDER --tokens 60
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from common import paired_ratio
from edgellm.api.chat import LoadedModel, load
from edgellm.backends.base import Context, Sampling
from edgellm.device.memory import DRAFT_MAX
from edgellm.generate.drafts import Drafts
from edgellm.generate.prompt import chat_tokens
from edgellm.generate.template import ChatTemplate, Message
from speculation_tasks import EDITING, FREE, Task

CONTEXT = 1024


def prompt_tokens(loaded: LoadedModel, prompt: str) -> list[int]:
    """Write a prompt with the chat template, or as a text to go on from."""
    model, template = loaded.model, loaded.template_source
    if template is None:
        return model.tokenize(f"{prompt}\n\n", special=False, ends=False)
    rendered = ChatTemplate(template, bos=model.bos_text, eos=model.eos_text)
    return list(chat_tokens(model, rendered, [Message("user", prompt)]))


def written(
    context: Context,
    prompt: list[int],
    sampling: Sampling,
    count: int,
    drafter: Drafts | None,
    clock: Callable[[], float],
) -> tuple[list[int], float]:
    """Write at most so many tokens; gives them, and the seconds from the first to the last."""
    context.prefill(prompt, sampling, lambda: False)
    if drafter is not None:
        context.speculate(drafter)
    found: list[int] = []
    begin = 0.0
    while len(found) < count:
        piece = context.next_piece()
        if not found:
            begin = clock()
        assert context.sampled is not None
        found.append(context.sampled)
        if piece is None:
            break
    return found, clock() - begin


def measure(
    loaded: LoadedModel, context: Context, tasks: Sequence[Task], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Answer each task with and without guesses."""
    sampling = Sampling(temperature=args.temp, seed=1)
    clock = time.process_time if args.processor_time else time.perf_counter
    rows = []
    for name, text in tasks:
        prompt = prompt_tokens(loaded, text)
        plain_speeds, drafted_speeds = [], []
        for turn in range(args.rounds + 1):
            model = loaded._draft.open(CONTEXT, args.cache_type) if loaded._draft else None
            drafter = Drafts(args.draft_max, model, args.cost)
            pair = {}
            for how in (None, drafter) if turn % 2 else (drafter, None):
                pair[how] = written(context, prompt, sampling, args.tokens, how, clock)
            plain, drafted = pair[None], pair[drafter]
            if turn:
                plain_speeds.append(len(plain[0]) / plain[1])
                drafted_speeds.append(len(drafted[0]) / drafted[1])
        same = [a == b for a, b in zip(plain[0], drafted[0], strict=False)]
        rows.append(
            {
                "task": name,
                "tokens": len(plain[0]),
                "same": plain[0] == drafted[0],
                "same_until": same.index(False) if False in same else len(same),
                "ratio": paired_ratio(drafted_speeds, plain_speeds),
                "tokens_per_s": sorted(plain_speeds)[len(plain_speeds) // 2],
                "drafted": drafter.drafted,
                "accepted": drafter.accepted,
            }
        )
        if not args.json:
            row = rows[-1]
            text = "same" if row["same"] else f"differs at {row['same_until']}"
            print(
                f"  {name:18} {row['tokens']:4} tokens  {text:15} {row['ratio']:5.2f}x  "
                f"{row['accepted']:3} of {row['drafted']:3} accepted",
                flush=True,
            )
    return rows


def main() -> None:
    """Measure both kinds of task."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="a path, or a name in the store")
    parser.add_argument("--backend")
    parser.add_argument("--cache-type", default="f16")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--draft", help="a smaller model of the same vocabulary")
    parser.add_argument("--draft-max", type=int, default=DRAFT_MAX)
    parser.add_argument("--temp", type=float, default=0.0)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument(
        "--processor-time", action="store_true", help="for a busy machine; with --threads 1"
    )
    parser.add_argument("--only", default="", help="only tasks whose name has this text")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args()
    with load(
        args.model,
        context=CONTEXT,
        threads=args.threads,
        backend=args.backend,
        cache_type=args.cache_type,
        draft=args.draft,
    ) as loaded:
        draft = loaded._draft
        args.cost = draft.needs.weights / loaded.needs.weights if draft else 0.0
        context = loaded.model.open_context(CONTEXT, args.cache_type, DRAFT_MAX)
        found: dict[str, Any] = {}
        for kind, tasks in (("repeating", EDITING), ("free", FREE)):
            if not args.json:
                print(f"{loaded.name}, {kind}:")
            chosen = [task for task in tasks if args.only in task[0]]
            rows = found[kind] = measure(loaded, context, chosen, args)
            if not rows:
                continue
            ratios = [row["ratio"] for row in rows]
            alike = [row["ratio"] for row in rows if row["same"]]
            drafted = sum(row["drafted"] for row in rows)
            summary = {
                "ratio": math.exp(sum(map(math.log, ratios)) / len(ratios)),
                "least": min(ratios),
                "same": len(alike),
                "of": len(rows),
                "ratio_of_same": math.exp(sum(map(math.log, alike)) / len(alike)) if alike else 0,
                "acceptance": sum(row["accepted"] for row in rows) / max(drafted, 1),
            }
            found[f"{kind}_summary"] = summary
            if not args.json:
                shown = ", ".join(
                    f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}"
                    for key, value in summary.items()
                )
                print(f"  mean: {shown}")
        context.close()
    if args.json:
        print(json.dumps({"benchmark": "speculation", **vars(args), **found}))


if __name__ == "__main__":
    main()
