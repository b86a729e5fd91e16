"""`edgellm bench` beside llama-bench and llama-cpp-python's own loop; and the speed model.

llama-bench is looked for in `--peers FOLDER` or EDGELLM_PEERS, and is run on the very libraries
that llama-cpp-python brings, so that it must be of the same version; without it that column is
left out. Programs of their own see different moments of a busy machine; so a last figure compares
our token loop with llama-bench's (tokens are evaluated, and none is chosen) inside one process,
some tokens in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import default_model, paired_ratio, report, stories15m

LIBRARY_PATH = "DYLD_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
EDGELLM = [sys.executable, "-c", "from edgellm.cli import main; main()"]
OWN = str(Path(__file__).parent / "own_loop.py")
KEYS = ("prompt_tokens_per_s", "completion_tokens_per_s")
Figures = dict[str, Any]


def libraries() -> Path:
    """Give the folder of the shared libraries of llama-cpp-python."""
    from importlib.util import find_spec

    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise SystemExit("llama-cpp-python is not installed")
    return Path(spec.origin).parent / "lib"


def llama_bench(folder: str | None) -> tuple[str, dict[str, str]] | None:
    """Find llama-bench, and the environment in which it runs on the same libraries as edgellm."""
    program = shutil.which("llama-bench", path=folder)
    if program is None:
        return None
    environment = {**os.environ, LIBRARY_PATH: str(libraries())}
    if shutil.which("ldd"):
        listed = subprocess.run(
            ["ldd", program], env=environment, capture_output=True, text=True, check=True
        ).stdout
        if str(libraries()) not in listed:
            raise SystemExit(f"{program} is not linked with libllama: it would measure another one")
    return program, environment


def output(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Run a command and give what it writes to stdout."""
    return subprocess.run(
        command,
        env=environment,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ).stdout


def contestants(
    model: Path, args: argparse.Namespace, depth: int
) -> dict[str, Callable[[], Figures]]:
    """Give what is measured, by name: each measures once, after a run to warm up."""
    prompt = min(args.prompt, 128) if "stories" in model.name else args.prompt  # trained on 256
    sizes = ["-p", str(prompt), "-n", str(args.generate), "-t", str(args.threads)]

    def ours() -> Figures:
        command = [*EDGELLM, "bench", str(model), *sizes, "--depth", str(depth)]
        found: Figures = json.loads(output([*command, "-r", "1", "--json"]))
        return found

    def own() -> Figures:
        found: Figures = json.loads(output([sys.executable, OWN, str(model), *sizes]))
        return found

    named: dict[str, Callable[[], Figures]] = {"edgellm": ours}
    if not depth:
        named["llama-cpp-python"] = own
    peer = llama_bench(args.peers)
    if peer is not None:
        program, environment = peer

        def bench() -> Figures:
            command = [program, "-m", str(model), *sizes, "-d", str(depth), "-r", "1", "-o", "json"]
            rows = json.loads(output(command, environment))
            return {
                KEYS[0]: next(row["avg_ts"] for row in rows if row["n_prompt"]),
                KEYS[1]: next(row["avg_ts"] for row in rows if row["n_gen"]),
            }

        named["llama-bench"] = bench
    return named


def beside_evaluation(model: Path, threads: int, rounds: int) -> float:
    """Give the speed of our loop by that of evaluating alone, the median over turns."""
    import ctypes

    from edgellm.backends.base import LoadOptions, Sampling, get_backend

    size, greedy = 16, Sampling(temperature=0)
    loaded: Any = get_backend("llama_cpp").load(model, LoadOptions(threads), lambda: False)
    ours, bare = (loaded.open_context(size * (rounds + 2)) for _ in range(2))
    for context in (ours, bare):
        context.prefill([1], greedy, lambda: False)
    native = loaded.native
    token = (ctypes.c_int32 * 1)(1)
    batch = native.llama_batch_get_one(token, 1)

    def evaluate() -> None:
        token[0] = (token[0] * 7 + 1) % loaded.vocabulary_size
        native.llama_decode(bare._context, batch)
        native.llama_synchronize(bare._context)

    def timed(step: Callable[[], object]) -> float:
        begin = time.perf_counter()
        for _ in range(size):
            step()
        return time.perf_counter() - begin

    ours.next_piece()
    steps = {"ours": ours.next_piece, "bare": evaluate}
    ratios = []
    for turn in range(rounds + 1):
        names = list(steps) if turn % 2 == 0 else list(reversed(steps))
        seconds = {name: timed(steps[name]) for name in names}
        ratios.append(seconds["bare"] / seconds["ours"])
    for each in (ours, bare, loaded):
        each.close()
    return statistics.median(ratios[1:])  # the first one warms up


def measure(title: str, model: Path, args: argparse.Namespace, depth: int) -> None:
    """Compare all on one model behind `depth` tokens, interleaved."""
    named = contestants(model, args, depth)
    runs: dict[str, list[Figures]] = {name: [] for name in named}
    for turn in range(args.rounds):
        for name in named if turn % 2 == 0 else reversed(named):
            runs[name].append(named[name]())
    result: dict[str, object] = {"rounds": args.rounds, "threads": args.threads, "depth": depth}
    for key in KEYS:
        values = {name: [run[key] for run in found] for name, found in runs.items()}
        for name, all_of_it in values.items():
            result[f"{key}, {name} (best)"] = max(all_of_it)
        for name in values:
            if name != "edgellm":
                ratio = paired_ratio(values["edgellm"], values[name])
                result[f"{key}, edgellm / {name} (median of pairs)"] = ratio
                best = max(values["edgellm"]) / max(values[name])
                result[f"{key}, edgellm / {name} (best of each)"] = best
    ours = runs["edgellm"]
    result["share of the roofline (best)"] = max(run["roofline_share"] for run in ours)
    for name, pick in (("median", statistics.median), ("best", max)):
        if ours[0]["expected_tokens_per_s"] is None:  # other threads than the usual number
            break
        measured = pick([run[KEYS[1]] for run in ours])
        result[f"speed model / measured ({name})"] = ours[0]["expected_tokens_per_s"] / measured
    if not depth:
        result["completion_tokens_per_s, edgellm / evaluation alone (in turn)"] = beside_evaluation(
            model, args.threads, 4 * args.rounds
        )
    report(f"speed, {title}", result, as_json=args.json)


def main() -> None:
    """Measure SmolLM2, Gemma 3 270M where the store has it, and stories15M where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="repetitions, interleaved")
    parser.add_argument("--json", action="store_true", help="one JSON object for each model")
    parser.add_argument("--peers", default=os.environ.get("EDGELLM_PEERS"), help="a folder")
    parser.add_argument("--threads", type=int, help="default: as edgellm chooses")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--depth", type=int, default=1024, help="measure behind so many tokens too")
    args = parser.parse_args()
    if args.threads is None:
        from edgellm.device.cpu import default_threads

        args.threads = default_threads()
    for title, model in models(Path(tempfile.mkdtemp())):
        for depth in (0, args.depth) if args.depth and "stories" not in title else (0,):
            measure(title, model, args, depth)


def models(scratch: Path) -> list[tuple[str, Path]]:
    """List the models that are there; stories15M is converted into the folder."""
    from edgellm.api.convert import convert
    from edgellm.models.store import stored_models

    found = [("SmolLM2-135M-Instruct Q4_1", default_model())]
    found += [
        ("Gemma 3 270M Q4_K_M", model.path)
        for model in stored_models()
        if model.name == "gemma3-270m"
    ]
    if (folder := stories15m()) is not None:
        path = scratch / "stories15M-f16.gguf"
        convert(folder, path)
        found.append(("stories15M f16", path))
    return found


if __name__ == "__main__":
    main()
