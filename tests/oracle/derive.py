"""Ask transformers for what the tiny checkpoints say, and write the golden files.

    python tests/oracle/derive.py [NAME ...]

A golden file holds the prompt's ids by the checkpoint's tokenizer, the greedy tokens after them
and the logits after the prompt (the first ones, rounded); of an embedding model the vectors of the
first and the last token, and the one of the text by the pooling of its files. Without names, all
are written.
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
WORDS = 24  # of a decoder beside an encoder


def derive(folder: Path) -> dict[str, Any]:
    """Run one checkpoint in float32; give prompt ids, greedy ids and some logits."""
    import torch

    tokenizer, model = load(folder)
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


def load(folder: Path) -> tuple[Any, Any]:
    """Load the tokenizer and the model of a folder in float32, or of its stand-in."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from oracle.standin import as_llama

    with tempfile.TemporaryDirectory() as scratch:
        known = as_llama(folder, Path(scratch)) or folder
        model = AutoModelForCausalLM.from_pretrained(
            known, dtype=torch.float32, attn_implementation="eager"
        )
        return AutoTokenizer.from_pretrained(known), model.eval()


def hidden_states(folder: Path) -> tuple[list[int], Any]:
    """Run one encoder in float32; give the ids of the prompt and (tokens, hidden) in numpy.

    Where dense layers stand after pooling, they are taken: being matrices alone, they give the same
    before the mean as after it.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer, T5EncoderModel

    from oracle import jina_bert
    from oracle.standin import with_usual_keys

    config = (folder / "config.json").read_text()
    if "JinaBertModel" in config:  # transformers has none
        prompt = list(AutoTokenizer.from_pretrained(folder)(PROMPT)["input_ids"])
        return prompt, jina_bert.hidden_states(folder, prompt)
    alone = "T5EncoderModel" in config
    kind = T5EncoderModel if alone else AutoModel
    with tempfile.TemporaryDirectory() as scratch:
        known = with_usual_keys(folder, Path(scratch))
        model = kind.from_pretrained(known, dtype=torch.float32, attn_implementation="eager")
    prompt = list(AutoTokenizer.from_pretrained(folder)(PROMPT)["input_ids"])
    with torch.no_grad():
        found = model.eval()(torch.tensor([prompt])).last_hidden_state[0]
        for file in sorted(folder.glob("?_Dense/model.safetensors")):
            found = found @ load_file(file)["linear.weight"].T
        return prompt, found.numpy()


def pooled(folder: Path, hidden: Any) -> Any:
    """Pool vectors as the files of sentence-transformers say: (hidden,)."""
    flags = json.loads((folder / "1_Pooling" / "config.json").read_text())
    ways = {
        "pooling_mode_mean_tokens": lambda: hidden.mean(axis=0),
        "pooling_mode_cls_token": lambda: hidden[0],
        "pooling_mode_lasttoken": lambda: hidden[-1],
    }
    (found,) = (way() for flag, way in ways.items() if flags.get(flag))
    return found


def derive_encoder(folder: Path) -> dict[str, Any]:
    """Give the prompt's ids, two vectors of tokens and the text's."""
    prompt, hidden = hidden_states(folder)
    vectors = {"first": hidden[0], "last": hidden[-1], "pooled": pooled(folder, hidden)}
    return {"prompt": prompt} | {
        name: [round(float(value), 5) for value in vector] for name, vector in vectors.items()
    }


def translate(folder: Path) -> tuple[list[int], Any, list[int], Any]:
    """Run an encoder and a decoder in float32, greedily from the start token.

    Give the prompt's ids, the encoder's vectors, the tokens after the start and their logits.
    """
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    prompt = list(AutoTokenizer.from_pretrained(folder)(PROMPT)["input_ids"])
    ids, start = torch.tensor([prompt]), model.config.decoder_start_token_id
    found = [start]
    with torch.no_grad():
        encoded = model.eval().get_encoder()(ids)
        for _ in range(WORDS):
            rows = model(encoder_outputs=encoded, decoder_input_ids=torch.tensor([found])).logits[0]
            found.append(int(rows[-1].argmax()))
    return prompt, encoded.last_hidden_state[0].numpy(), found[1:], rows.numpy()


def derive_translator(folder: Path) -> dict[str, Any]:
    """Give the prompt's ids, two of the encoder's vectors, and the decoder's words and logits."""
    prompt, vectors, greedy, logits = translate(folder)
    parts = {"first": vectors[0], "last": vectors[-1], "logits": logits[-1][:LOGITS]}
    return {"prompt": prompt, "greedy": greedy} | {
        name: [round(float(value), 5) for value in values] for name, values in parts.items()
    }


def golden(name: str) -> dict[str, Any]:
    """Read the golden file of a checkpoint."""
    found: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return found


def main() -> None:
    sys.path.insert(0, str(TESTS))
    import tiny

    with tempfile.TemporaryDirectory() as scratch:
        kinds = (
            (tiny.MODELS, derive),
            (tiny.ENCODERS, derive_encoder),
            (tiny.TRANSLATORS, derive_translator),
        )
        ways = {name: (models[name], way) for models, way in kinds for name in models}
        for name in sys.argv[1:] or ways:
            write, way = ways[name]
            found = way(write(Path(scratch) / name))
            # A line for each part, so that a change can be seen.
            lines = ",\n".join(f' "{part}": {json.dumps(value)}' for part, value in found.items())
            (GOLDEN / f"{name}.json").write_text(f"{{\n{lines}\n}}\n")
            print(name, (found.get("greedy") or found["pooled"])[:8])


if __name__ == "__main__":
    main()
