"""Ask transformers for the greedy tokens of the tiny checkpoints, and write the golden files.

    python tests/oracle/derive.py [NAME ...]

A golden file holds the prompt's ids by the checkpoint's tokenizer, the greedy tokens after them
and the logits after the prompt (the first ones, rounded). Without names, all are written.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
GOLDEN = TESTS / "golden" / "transformers"
PROMPT = "the cat sat on <s>the  mat"
COUNT = 64
LOGITS = 8


def derive(folder: Path) -> dict[str, Any]:
    """Run one checkpoint in float32; give prompt ids, greedy ids and some logits."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    model.eval()
    prompt = tokenizer(PROMPT)["input_ids"]
    ids = list(prompt)
    with torch.no_grad():
        first = model(torch.tensor([ids])).logits[0, -1]
        for _ in range(COUNT):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return {
        "prompt": list(prompt),
        "greedy": ids[len(prompt) :],
        "logits": [round(float(value), 4) for value in first[:LOGITS]],
    }


def golden(name: str) -> dict[str, Any]:
    """Read the golden file of a checkpoint."""
    found: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return found


def main() -> None:
    sys.path.insert(0, str(TESTS))
    import tiny

    with tempfile.TemporaryDirectory() as scratch:
        for name in sys.argv[1:] or tiny.MODELS:
            found = derive(tiny.MODELS[name](Path(scratch) / name))
            # A line for each part, so that a change can be seen.
            lines = ",\n".join(f' "{part}": {json.dumps(value)}' for part, value in found.items())
            (GOLDEN / f"{name}.json").write_text(f"{{\n{lines}\n}}\n")
            print(name, found["greedy"][:8])


if __name__ == "__main__":
    main()
