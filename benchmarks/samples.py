"""Several answers at once: what they cost, and whether voting among them helps.

    python benchmarks/samples.py                      # costs, then 50 problems, 15 answers each
    python benchmarks/samples.py --problems 0 --backend mlx
    python benchmarks/samples.py --judge              # best of 5 by the model's own judgement too

Cost: the time of 15 answers without their decoding, over that of one answer without its decoding
(goal: at most 1.1, since the prompt is read once); and the tokens a second of 15 answers that are
written together, over those of one text after another, by turns in one run.

Accuracy: problems of `samples_problems.json`, one and two steps, some Persian, with two solved
examples before each. All figures come of the same 15 answers: one answer is right as often as the
15 are on average, and of 5 there are three groups.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import edgellm
from common import default_model, report
from edgellm.api.samples import Candidate
from edgellm.backends.base import Sampling
from edgellm.generate.prompt import chat_tokens
from edgellm.generate.vote import extractor, majority

PROBLEMS = Path(__file__).parent / "samples_problems.json"
GOAL = 1.1
COUNT, GROUP = 15, 5
TIMED = 5  # problems
EXAMPLES = (
    (
        "Ann has 4 pens. She buys 3 more and gives 2 away. How many pens does she have?",
        "Ann has 4 + 3 = 7 pens. Then she has 7 - 2 = 5 pens. The answer is 5.",
    ),
    (
        "یک سبد ۲ انار دارد. ۳ سبد چند انار دارند؟",
        "هر سبد ۲ انار دارد، پس ۳ سبد ۳ × ۲ = ۶ انار دارند. جواب ۶ است.",
    ),
)
WARM = Sampling(temperature=0.7, top_k=40, seed=1)
Figures = dict[str, object]


def never() -> bool:
    """Cancel nothing."""
    return False


def messages(question: str) -> list[edgellm.Message]:
    """Put the solved examples before a question."""
    turns = [edgellm.Message("system", "You solve short word problems.")]
    for asked, answered in EXAMPLES:
        turns += [edgellm.Message("user", asked), edgellm.Message("assistant", answered)]
    return [*turns, edgellm.Message("user", question)]


def prefill_ratio(model: edgellm.LoadedModel, rounds: int, most: int) -> Figures:
    """Time without decoding, of many answers over one."""
    prompt = "\n".join(asked for asked, _ in json.loads(PROBLEMS.read_text("utf-8"))[:20])
    seconds: dict[int, list[float]] = {1: [], COUNT: []}
    tokens = 0
    for turn in range(rounds):
        for count in (1, COUNT) if turn % 2 == 0 else (COUNT, 1):
            start = time.perf_counter()
            found = model.samples(prompt, count, sampling=WARM, max_tokens=most)
            seconds[count].append(time.perf_counter() - start - found.decoding_s)
            tokens = found.prompt_tokens
    ratios = [many / one for many, one in zip(seconds[COUNT], seconds[1], strict=True)]
    return {
        "prompt tokens": tokens,
        "one answer without decoding, s": statistics.median(seconds[1]),
        f"{COUNT} answers without decoding, s": statistics.median(seconds[COUNT]),
        f"ratio (goal: at most {GOAL})": statistics.median(ratios),
    }


def together_ratio(model: edgellm.LoadedModel, rounds: int, steps: int) -> Figures:
    """Tokens a second of texts together, over one text, both behind the end too."""
    prompt = chat_tokens(model.model, model.template, messages("What is 2 + 2?"))
    context = model.model.open_context(len(prompt) + steps + 1)
    branches = model.open_branches(len(prompt), steps, COUNT)
    speeds: dict[str, list[float]] = {"alone": [], "together": []}

    def alone(seed: int) -> float:
        context.prefill(prompt, Sampling(temperature=0.7, seed=seed), never)
        start = time.perf_counter()
        for _ in range(steps):
            context.next_piece()
        return steps / (time.perf_counter() - start)

    def together() -> float:
        branches.prefill(prompt, never)
        branches.keep([0] * COUNT)
        choosers = [branches.chooser(Sampling(temperature=0.7, seed=seed)) for seed in range(COUNT)]
        start = time.perf_counter()
        for _ in range(steps):
            branches.step([chooser.choose(at) for at, chooser in enumerate(choosers)])
        return COUNT * steps / (time.perf_counter() - start)

    for turn in range(rounds):
        speeds["alone"].append(alone(turn))
        speeds["together"].append(together())
    branches.close()
    context.close()
    pairs = zip(speeds["together"], speeds["alone"], strict=True)
    return {
        "one text, tokens/s": statistics.median(speeds["alone"]),
        f"{COUNT} texts together, tokens/s": statistics.median(speeds["together"]),
        "gain": statistics.median(many / one for many, one in pairs),
    }


def right(answer: str | None, wanted: int) -> bool:
    """Tell whether an answer is the number."""
    return answer == str(wanted)


def likeliest(candidates: Sequence[Candidate]) -> str | None:
    """Give the answer of the text whose tokens are likeliest on average."""
    return max(candidates, key=lambda found: found.sample.mean_log_probability).answer


def accuracy(model: edgellm.LoadedModel, count: int, most: int, *, judge: bool) -> Figures:
    """Share of problems that are solved, by each way to choose."""
    problems = json.loads(PROBLEMS.read_text("utf-8"))
    step = max(len(problems) // count, 1)
    problems = problems[::step][:count]
    number = extractor("number")
    hits: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for place, (question, wanted) in enumerate(problems):

        def add(name: str, hit: float) -> None:
            hits.setdefault(name, []).append(hit)

        turns = messages(question)
        greedy = model.samples(turns, 1, sampling=Sampling(temperature=0), max_tokens=most)
        add("greedy", right(number(greedy.candidates[0].sample.text), wanted))
        # What fewer answers cost is timed on some problems; which answers they are is known.
        for size in (1, GROUP, COUNT) if place < TIMED else (COUNT,):
            start = time.perf_counter()
            found = model.samples(turns, size, vote="number", sampling=WARM, max_tokens=most)
            if place < TIMED:
                name = f"seconds a problem, N = {size}"
                seconds.setdefault(name, []).append(time.perf_counter() - start)
        every = found.candidates
        groups = [every[at : at + GROUP] for at in range(0, COUNT, GROUP)]
        add("N = 1", statistics.mean(right(c.answer, wanted) for c in every))
        votes = [majority([c.answer for c in group])[0] for group in groups]
        add(f"N = {GROUP}, vote", statistics.mean(right(vote, wanted) for vote in votes))
        add(f"N = {COUNT}, vote", right(found.answer, wanted))
        likely = [right(likeliest(group), wanted) for group in groups]
        add(f"N = {GROUP}, best by likelihood", statistics.mean(likely))
        add(f"N = {COUNT}, best by likelihood", right(likeliest(every), wanted))
        add(f"any of {COUNT}", any(right(c.answer, wanted) for c in every))
        if judge:
            best = model.samples(turns, GROUP, best="judge", sampling=WARM, max_tokens=most)
            add(
                f"N = {GROUP}, best by the model's judgement",
                right(number(best.text or ""), wanted),
            )
    figures: Figures = {"problems": len(problems), "most tokens of an answer": most}
    figures |= {name: f"{100 * statistics.mean(found):.1f} %" for name, found in hits.items()}
    return figures | {name: statistics.mean(found) for name, found in seconds.items()}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a file or folder; the default model if none is given")
    parser.add_argument("--backend", choices=["llama_cpp", "mlx"], default="llama_cpp")
    parser.add_argument("--problems", type=int, default=50, help="word problems; 0 for none")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of the costs")
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of an answer")
    parser.add_argument("--judge", action="store_true", help="best by judgement too")
    parser.add_argument("--json", action="store_true", help="one JSON object a result on stdout")
    options = parser.parse_args()
    path = Path(options.model) if options.model else default_model()
    with tempfile.TemporaryDirectory() as folder:
        if options.backend == "mlx" and not path.is_dir():
            source, path = path, Path(folder) / "model"
            edgellm.convert(source, path, to="mlx", dtype="f32")
        with edgellm.load(path) as model:
            name = f"{model.backend}, {model.description}"
            if options.rounds:
                found = prefill_ratio(model, options.rounds, 16)
                report(f"the prompt is read once ({name})", found, as_json=options.json)
                found = together_ratio(model, options.rounds, options.tokens)
                report(f"texts written together ({name})", found, as_json=options.json)
            if options.problems:
                found = accuracy(model, options.problems, options.tokens, judge=options.judge)
                report(f"arithmetic word problems ({name})", found, as_json=options.json)


if __name__ == "__main__":
    main()
