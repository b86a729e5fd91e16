"""Both backends on the same weights: outputs, conversations, and texts in float32.

    python benchmarks/parity.py                  # all models that are there
    python benchmarks/parity.py smollm2 --tokens 1024

Each model is brought to float32 once: as a GGUF file for llama.cpp, and as a folder for MLX. What
is measured is the KL divergence of the next token between the two, and that of quantized files
from the float32 of the same values: an MLX folder of repacked blocks, whose products MLX computes
in float32, and the GGUF file itself, for which llama.cpp rounds activations to 8 bits. Then the
same conversation of three turns is held on both, greedy.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import edgellm
from common import ROOT, default_model, stories15m
from edgellm.backends.base import Sampling
from edgellm.errors import NotFoundError
from edgellm.generate.engine import GenerateOptions
from edgellm.models.resolve import resolve
from references import cache_folder

DATA = ROOT.parent / "shared" / "data"
MODELS = ("stories15m", "smollm2", "gemma3")
# Mean KL divergence in nats a token: between backends in float32; of codes repacked exactly, or
# nearly and in part anew (Gemma's Q4_K_M); of llama.cpp with activations in 8 bits.
LIMITS = {"float32": 1e-4, "repacked": 1e-3, "8-bit activations": 2e-2}
QUESTIONS = ("What is the capital of France?", "پایتخت ایران کجاست؟", "Write a line about rain.")


def source(name: str) -> Path | None:
    """Give a model as it is kept; None if it is not there."""
    if name == "stories15m":
        return stories15m()
    try:
        return default_model() if name == "smollm2" else resolve("gemma3-270m")
    except NotFoundError:
        return None


def prepared(name: str, path: Path, cache: Path) -> dict[str, Path]:
    """Make the files of a model, if they are not there yet; by what they are measured as."""
    folder = cache / f"parity-{name}"
    folder.mkdir(exist_ok=True)
    gguf, mlx, packed = folder / "f32.gguf", folder / "f32.mlx", folder / "packed.mlx"
    if not gguf.exists():
        edgellm.convert(path, gguf, dtype="f32")
    if not mlx.exists():
        edgellm.convert(gguf, mlx, to="mlx")
    found = {"gguf": gguf, "float32": mlx}
    if path.is_file():  # a quantized one
        if not packed.exists():
            edgellm.convert(path, packed, to="mlx")
        found |= {"repacked": packed, "8-bit activations": path}
    return found


def texts(name: str, folder: Path) -> list[Path]:
    """Write the beginnings of an English and a Persian text, or stories where it knows those."""
    wiki = (DATA / "text" / "wiki.test.raw").read_text(encoding="utf-8")[:200_000]
    if name == "stories15m":
        tiny = DATA / "text" / "calibration" / "tiny.utf8"
        parts = {"stories": tiny.read_text(encoding="utf-8", errors="replace")[:200_000]}
    else:
        persian = json.loads((DATA / "fa" / "pquad_validation.json").read_text(encoding="utf-8"))
        paragraphs = [p["context"] for each in persian["data"] for p in each["paragraphs"]]
        parts = {"wiki": wiki, "persian": "\n".join(paragraphs[:100])}
    found = []
    for title, text in parts.items():
        file = folder / f"{title}.txt"
        file.write_text(text, encoding="utf-8")
        found.append(file)
    return found


def divergences(name: str, files: dict[str, Path], tokens: int) -> dict[str, object]:
    """Measure every form against llama.cpp's float32."""
    forms = {kind: path for kind, path in files.items() if kind != "gguf"}
    result = edgellm.measure(
        list(forms.values()),
        against=files["gguf"],
        texts=texts(name, files["gguf"].parent),
        context=256,
        max_tokens=tokens,
    )
    found: dict[str, object] = {}
    for kind, evaluation in zip(forms, result.evaluations, strict=True):
        quality = evaluation.quality
        assert quality.kld is not None
        found[kind] = {
            "tokens": quality.tokens,
            "kld_mean": quality.kld.mean,
            "kld_max": quality.kld.maximum,
            "top1_agreement": quality.top1_agreement,
            "limit": LIMITS[kind],
            "holds": quality.kld.mean <= LIMITS[kind],
        }
    return found


def answers(path: Path, questions: Sequence[str]) -> tuple[list[str], float]:
    """Hold a conversation, or continue texts without a template; give texts and tokens/s."""
    sampling = GenerateOptions(Sampling(temperature=0), max_tokens=40)
    found, speeds = [], []
    with edgellm.load(path, context=1024 if "stories15m" not in str(path) else None) as model:
        conversation = model.conversation(options=sampling)
        for question in questions:
            result = conversation.ask(question).read()
            found.append(result.text)
            speeds.append(result.completion_tokens_per_s)
    return found, max(speeds)


def conversation(files: dict[str, Path]) -> dict[str, object]:
    """Compare the answers of both backends."""
    one, other = (answers(files[kind], QUESTIONS) for kind in ("gguf", "float32"))
    return {
        "equal_answers": sum(a == b for a, b in zip(one[0], other[0], strict=True)),
        "answers": len(QUESTIONS),
        "llama_cpp_tokens_per_s": one[1],
        "mlx_tokens_per_s": other[1],
        "texts": {"llama_cpp": one[0], "mlx": other[0]},
    }


def main() -> int:
    """Measure; 1 if a limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", choices=[*MODELS, []], help="all by default")
    parser.add_argument("--tokens", type=int, default=2048, help="of each text")
    parser.add_argument("--cache", type=Path, help="where the float32 models are kept")
    parser.add_argument("--clean", action="store_true", help="remove them afterwards")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    if not DATA.is_dir():
        print("needs the folder ../shared/data with texts", file=sys.stderr)
        return 0
    report: dict[str, dict[str, object]] = {}
    for name in options.models or MODELS:
        path = source(name)
        if path is None:
            print(f"{name} is not there", file=sys.stderr)
            continue
        files = prepared(name, path, cache_folder(options.cache))
        report[name] = {
            **divergences(name, files, options.tokens),
            "conversation": conversation(files),
        }
        if options.clean:
            shutil.rmtree(files["gguf"].parent)
    rows = [row for found in report.values() for row in found.values() if isinstance(row, dict)]
    if options.json:
        print(json.dumps({"models": report, "machine": platform.machine()}, ensure_ascii=False))
    else:
        for name, found in report.items():
            for kind, row in found.items():
                print(name, kind, json.dumps(row, ensure_ascii=False))
    return int(not all(row.get("holds", True) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
