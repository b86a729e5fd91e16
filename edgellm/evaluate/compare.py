"""Measure models on texts: perplexity, and the distance from a reference.

All models are loaded at once and read the same tokens in the same steps, so that the reference's
logits are computed once and nothing is stored but a few numbers for each token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm.backends.base import LoadOptions, Scorer
from edgellm.errors import BackendError, UsageError
from edgellm.evaluate.bootstrap import Comparison, paired_bootstrap
from edgellm.evaluate.chunks import Chunks, cut
from edgellm.evaluate.divergence import Divergence, divergence, negative_log_likelihood
from edgellm.evaluate.quality import Quality, Scores, summarize
from edgellm.evaluate.scorers import Candidate, check_tokens, check_vocabulary, inspect
from edgellm.evaluate.texts import Text
from edgellm.models.adapter import prepare_adapters

__all__ = ["DEFAULT_CONTEXT", "Evaluation", "Progress", "Result", "compare", "score"]

DEFAULT_CONTEXT = 512
SMALLEST_CONTEXT = 8

Progress = Callable[[int, int], None]
"""Called with tokens evaluated and tokens in all, those of every model counted."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model: its scores on each text, and its numbers on all of them joined."""

    model: Path
    scores: tuple[Scores, ...]

    @property
    def quality(self) -> Quality:
        """The numbers of all texts together."""
        return summarize(self.scores)


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured.

    Attributes:
        context: the tokens of a chunk, of which the second half is scored.
        reference: the model that the others are compared with; None without one.
        evaluations: one for each model, in the order given.
        comparisons: each further model against the first, by a paired bootstrap over chunks; None
            where there are fewer than two chunks.
        seed: the bootstrap's.
    """

    context: int
    reference: Path | None
    evaluations: tuple[Evaluation, ...]
    comparisons: tuple[Comparison | None, ...]
    seed: int


def _never() -> bool:
    return False


def compare(
    reference: Path | None,
    models: Sequence[Path],
    texts: Sequence[Text],
    *,
    context: int | None = None,
    max_tokens: int | None = None,
    options: LoadOptions | None = None,
    lora: Sequence[tuple[str, float]] = (),
    seed: int = 0,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = _never,
) -> Result:
    """Measure models on texts, and against a reference.

    Args:
        reference: a GGUF file, or a folder that MLX runs; None measures perplexity alone.
        models: files or folders of the reference's vocabulary.
        texts: what is measured on, each by itself and all together.
        context: the tokens of a chunk; None takes `DEFAULT_CONTEXT`, or what a model was trained
            on where that is less.
        max_tokens: how many tokens of each text are used at most; None for all.
        options: how models are loaded.
        lora: adapters of each model but the reference, and their scales.
        seed: of the bootstrap.
        progress: called with tokens evaluated and tokens in all.
        cancelled: asked between steps; True stops.

    Raises:
        UsageError: no models or texts, a value out of its range, a text shorter than a chunk, or
            models of different vocabularies.
        ConvertersError: a file is damaged or would harm native code.
        BackendError: a model cannot be run, or its logits are not finite.
        DoesNotFitError: there is not enough memory.
        TemplateError: the model's chat template fails.
        CancelledError: `cancelled` gave True.
    """
    if not models or not texts:
        raise UsageError("there is nothing to measure: " + ("no text" if models else "no model"))
    options = options or LoadOptions()
    candidates = [inspect(path) for path in ([reference] if reference else [])]
    for path in models:
        candidate = inspect(path)
        candidates.append(replace(candidate, adapters=prepare_adapters(lora, path)))
    context = _context(context, candidates)
    if max_tokens is not None and max_tokens < context:
        raise UsageError(f"at most {max_tokens} tokens are not even a chunk, which has {context}")
    with ExitStack() as stack:
        scorers: list[Scorer] = []
        for candidate in candidates:
            scorer = candidate.open(context, options, cancelled)
            stack.callback(scorer.close)
            scorers.append(scorer)
            check_vocabulary(scorers[0], scorer)
        # llama.cpp's tokenizer is what people will use: a folder's only where there is no other.
        lead = next(
            (s for s, c in zip(scorers, candidates, strict=True) if not c.is_folder), scorers[0]
        )
        chunked = cut(lead.tokenizer, texts, context, max_tokens)
        used = sorted({token for text in chunked for chunk in text.chunks for token in chunk})
        for scorer in scorers:
            if scorer is not lead:
                check_tokens(lead.tokenizer, lead.path, scorer.tokenizer, scorer.path, used)
        measured = score(
            scorers[0] if reference else None,
            scorers[1:] if reference else scorers,
            chunked,
            threads=options.threads,
            progress=progress,
            cancelled=cancelled,
        )
    return Result(
        context,
        reference,
        tuple(Evaluation(path, scores) for path, scores in zip(models, measured, strict=True)),
        tuple(paired_bootstrap(measured[0], scores, seed=seed) for scores in measured[1:]),
        seed,
    )


def score(
    reference: Scorer | None,
    scorers: Sequence[Scorer],
    texts: Sequence[Chunks],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = _never,
) -> tuple[tuple[Scores, ...], ...]:
    """Score chunks with models that are open: for each model, the scores of each text.

    Args:
        reference: what the others are compared with; None measures perplexity alone.
        scorers: the models.
        texts: chunks of tokens of their vocabulary.
        threads: cores for the arithmetic on logits; None for all.
        progress: called with tokens evaluated and tokens in all.
        cancelled: asked between steps; True stops.

    Raises:
        BackendError: a model fails, or its logits are not finite.
        CancelledError: `cancelled` gave True.
    """
    everyone = [*([reference] if reference else []), *scorers]
    step = min(scorer.output_limit for scorer in everyone)
    total = sum(len(text.chunks) * (text.context - 1) for text in texts) * len(everyone)
    done = 0

    def evaluate(scorer: Scorer, tokens: Sequence[int], outputs: bool) -> npt.NDArray[np.float32]:
        nonlocal done
        logits = scorer.extend(tokens, cancelled, outputs=outputs)
        done += len(tokens)
        if progress:
            progress(done, total)
        return logits

    # for each model and text, what each step gave
    found: list[list[list[Divergence | npt.NDArray[np.float32]]]]
    found = [[[] for _ in texts] for _ in scorers]
    for number, text in enumerate(texts):
        for chunk in text.chunks:
            for scorer in everyone:
                scorer.restart()
                evaluate(scorer, chunk[: text.begin], False)
            for start in range(text.begin, text.context - 1, step):
                stop = min(start + step, text.context - 1)
                part, targets = chunk[start:stop], chunk[start + 1 : stop + 1]
                wanted = evaluate(reference, part, True) if reference else None
                for scorer, steps in zip(scorers, found, strict=True):
                    logits = evaluate(scorer, part, True)
                    if wanted is None:
                        nll = negative_log_likelihood(logits, targets, threads=threads)
                        _check_finite(scorer, nll)
                        steps[number].append(nll)
                    else:
                        each = divergence(wanted, logits, targets, threads=threads)
                        if reference:
                            _check_finite(reference, each.reference_nll)
                        _check_finite(scorer, each.nll)
                        _check_finite(scorer, each.kld)
                        steps[number].append(each)
    return tuple(
        tuple(_joined(text, steps) for text, steps in zip(texts, of_model, strict=True))
        for of_model in found
    )


def _joined(text: Chunks, steps: Sequence[Divergence | npt.NDArray[np.float32]]) -> Scores:
    plain = [each for each in steps if not isinstance(each, Divergence)]
    if plain:
        return Scores(text.name, text.per_chunk, np.concatenate(plain))
    compared = [each for each in steps if isinstance(each, Divergence)]
    return Scores(
        text.name,
        text.per_chunk,
        np.concatenate([each.nll for each in compared]),
        np.concatenate([each.reference_nll for each in compared]),
        np.concatenate([each.kld for each in compared]),
        np.concatenate([each.agree for each in compared]),
    )


def _context(wanted: int | None, candidates: Sequence[Candidate]) -> int:
    """Choose the context, or check the one that is asked for."""
    known = [(each.trained_context, each.path) for each in candidates if each.trained_context]
    limit, path = min(known, default=(None, None))
    if wanted is None:
        return max(SMALLEST_CONTEXT, min(DEFAULT_CONTEXT, limit or DEFAULT_CONTEXT))
    if wanted < SMALLEST_CONTEXT:
        raise UsageError(f"a context of {wanted} tokens is too short to measure on")
    if limit is not None and wanted > limit:
        raise UsageError(
            f"a context of {wanted} tokens is asked for, and {path} was trained on {limit}",
            hint=f"--ctx takes {SMALLEST_CONTEXT} to {limit} for this model",
        )
    return wanted


def _check_finite(scorer: Scorer, values: npt.NDArray[np.float32]) -> None:
    if not np.isfinite(values).all():
        raise BackendError(f"{scorer.path}: the model's logits are not finite numbers")
