"""Is a budget of thinking kept, at both ends, on both backends?

SmolLM2-135M gets a chat template that begins a thought. Each prompt is answered with several
bounds, and the tokens of its thought are compared with them.

    python benchmarks/reasoning.py --prompts 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import default_model

if TYPE_CHECKING:
    from edgellm.api.chat import LoadedModel

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)
PROMPTS = [
    "Why is the sky blue?",
    "A shop sells pens at 3 euros. How much are 4 pens?",
    "Name the capital of Iran, and one thing to see there.",
    "پایتخت ایران کجاست؟",
    "How does a bicycle stay upright?",
    "What is the difference between a lake and a sea?",
    "Write two sentences about rain.",
    "Tom has 12 apples and eats 5. How many are left?",
    "باران چگونه به وجود می‌آید؟",
    "Why do cats purr?",
]
BOUNDS = [(0, 24), (0, 48), (0, 96), (64, 96), (96, 96), (96, -1)]  # minimum, budget
ANSWER = 24  # tokens


def main() -> int:
    """Answer, count and print; 1 if a bound was not kept."""
    import edgellm
    from edgellm.backends.mlx.library import missing

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=5, help="how many prompts")
    parser.add_argument("--temp", type=float, default=0.8, help="temperature")
    parser.add_argument("--threads", type=int, help="of llama.cpp")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        places = {"llama_cpp": default_model()}
        if missing() is None:
            places["mlx"] = Path(folder) / "smollm2.mlx"
            edgellm.convert(default_model(), places["mlx"])
        for backend, path in places.items():
            threads = given.threads if backend == "llama_cpp" else None
            options: dict[str, Any] = {
                "backend": backend,
                "threads": threads,
                "chat_template": TEMPLATE,
            }
            with edgellm.load(path, context=1024, **options) as model:
                rows += [measured(model, *bound, given.prompts, given.temp) for bound in BOUNDS]
    kept = all(row["kept"] == row["answers"] for row in rows)
    if given.json:
        print(json.dumps({"benchmark": "reasoning", "rows": rows}))
        return 0 if kept else 1
    print("| backend | minimum | budget | least, median, most tokens | kept | answered |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        counts = f"{row['least']}, {row['median']:g}, {row['most']}"
        bound = "none" if row["budget"] < 0 else row["budget"]
        print(
            f"| {row['backend']} | {row['minimum']} | {bound} | {counts} | "
            f"{row['kept']} of {row['answers']} | {row['answered']} |"
        )
    return 0 if kept else 1


def measured(
    model: LoadedModel, least: int, budget: int, count: int, temp: float
) -> dict[str, Any]:
    """Answer the prompts under one bound."""
    from edgellm.backends.base import Sampling

    tokens, answered = [], 0
    limit = ANSWER + (budget if budget >= 0 else 2 * least)
    for seed, prompt in enumerate(PROMPTS[:count]):
        result = model.chat(
            prompt,
            sampling=Sampling(temperature=temp, seed=seed),
            max_tokens=limit,
            think_budget=budget,
            think_min=least,
        )
        tokens.append(result.thinking_tokens)
        answered += bool(result.text)
    most = budget if budget >= 0 else limit
    return {
        "backend": model.backend,
        "minimum": least,
        "budget": budget,
        "least": min(tokens),
        "median": statistics.median(tokens),
        "most": max(tokens),
        "kept": sum(least <= found <= most for found in tokens),
        "answers": len(tokens),
        "answered": answered,
    }


if __name__ == "__main__":
    sys.exit(main())
