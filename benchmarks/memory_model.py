"""The memory model against what llama.cpp allocates and what the process holds.

For each model, context and type of cache a process of its own loads the model as `edgellm chat`
does, evaluates a full batch and says what it holds. Its log says what llama.cpp allocated.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common import default_model, report, stories15m

CACHES = ("f16", "q8_0", "q4_0")
BATCH = 512


def child(model: str, context: int, cache: str) -> None:
    """Load, evaluate a batch, and print what the process holds; the log goes to stderr."""
    import edgellm
    from edgellm.backends.base import Sampling

    with edgellm.load(model, fit=False) as loaded:
        opened = loaded.model.open_context(context, cache)
        opened.prefill([5] * min(BATCH, context), Sampling(temperature=0), lambda: False)
        opened.next_piece()
        status = Path("/proc/self/status").read_text()
        held = dict(re.findall(r"^(RssAnon|RssFile|VmHWM):\s+(\d+) kB", status, re.MULTILINE))
        print(json.dumps({name: 1024 * int(value) for name, value in held.items()}))
        opened.close()


def measured(model: Path, context: int, cache: str) -> dict[str, float] | None:
    """Run the child; gives bytes by what they are for, None where llama.cpp has no such cache."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(model), str(context), cache],
        env={**os.environ, "EDGELLM_DEBUG": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    if "does not divide" in done.stderr:  # heads whose width is no multiple of 32
        return None
    done.check_returncode()
    found: dict[str, float] = json.loads(done.stdout)

    def logged(kind: str) -> float:
        sizes = re.findall(rf"{kind} buffer size = +([\d.]+) MiB", done.stderr)
        return sum(map(float, sizes)) * 2**20

    for name, kind in (("weights", "model"), ("cache", "KV"), ("compute", "compute")):
        found[name] = logged(kind)
    found["compute"] += logged("output")
    return found


def models(scratch: Path) -> Iterator[tuple[str, Path, tuple[int, ...]]]:
    """List the models that are there, each with three contexts; stories15M is converted."""
    from edgellm.api.convert import convert
    from edgellm.models.store import stored_models

    yield "SmolLM2-135M-Instruct Q4_1", default_model(), (512, 2048, 8192)
    for model in stored_models():
        if model.name == "gemma3-270m":
            yield "Gemma 3 270M Q4_K_M", model.path, (512, 4096, 32768)
    if (folder := stories15m()) is not None:
        path = scratch / "stories15M-f16.gguf"
        convert(folder, path)
        yield "stories15M f16", path, (256, 1024, 2048)


def main() -> None:
    """Compare every combination; the worst deviation of each part comes last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object for each model")
    args = parser.parse_args()
    from edgellm.api.show import show
    from edgellm.device.memory import Runtime

    for title, model, contexts in models(Path(tempfile.mkdtemp())):
        needs = show(str(model)).needs
        figures: dict[str, object] = {}
        worst = {"allocated": 0.0, "process": 0.0}
        for context in contexts:
            for cache in CACHES:
                real = measured(model, context, cache)
                if real is None:
                    figures[f"{context} tokens, {cache}"] = "llama.cpp has no such cache for it"
                    continue
                model_says = needs.demand(Runtime(context, cache))
                assert model_says is not None
                allocated = model_says.total - model_says.process
                pairs = {
                    "allocated": (allocated, real["weights"] + real["cache"] + real["compute"]),
                    "process": (model_says.total, real["RssAnon"] + real["RssFile"]),
                }
                line = []
                for name, (ours, theirs) in pairs.items():
                    off = ours / theirs - 1
                    worst[name] = max(worst[name], off, key=abs)
                    line.append(f"{name} {ours / 1e6:.1f} of {theirs / 1e6:.1f} MB ({off:+.1%})")
                parts = ", ".join(
                    f"{name} {getattr(model_says, name) / 1e6:.1f}/{real[name] / 1e6:.1f}"
                    for name in ("weights", "cache", "compute")
                )
                figures[f"{context} tokens, {cache}"] = f"{'; '.join(line)} [{parts}]"
        figures |= {f"worst, {name}": f"{off:+.1%}" for name, off in worst.items()}
        report(f"memory, {title}", figures, as_json=args.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        main()
