"""How fast a model reads prompts and writes on this device, measured as llama-bench does."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgellm.api.adapters import Lora
from edgellm.api.chat import load
from edgellm.backends.base import CancelledError, Context, Model, Sampling
from edgellm.backends.llama_cpp.kernel import measure_kernel
from edgellm.device.bandwidth import Bandwidth, read_bandwidth
from edgellm.device.cpu import probe_cpu
from edgellm.device.ram import probe_ram
from edgellm.device.speed import cache_read, expected_speed, weights_read
from edgellm.errors import UsageError

__all__ = ["BenchResult", "Speed", "bench"]

GREEDY = Sampling(temperature=0)
MOST_TOKENS = 1_000_000
MOST_REPETITIONS = 1000


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second: one value for each repetition."""

    samples: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return statistics.fmean(self.samples)

    @property
    def stddev(self) -> float:
        """Their sample standard deviation; 0 for one."""
        return statistics.stdev(self.samples) if len(self.samples) > 1 else 0.0


@dataclass(frozen=True, slots=True)
class BenchResult:
    """What was measured.

    Attributes:
        model: what the caller called it.
        backend: what ran it.
        threads: that computed; None where the backend does not take a number.
        model_bytes: bytes of its weights.
        cache_type: of keys and values.
        depth: tokens that were in the context before.
        prompt_tokens: tokens of the prompt.
        completion_tokens: tokens that were written.
        prompt: the speed of reading; None if it was not measured.
        completion: the speed of writing; None if it was not measured.
        token_bytes: bytes of weights and cache that are read for a token written.
        bandwidth: of main memory; None where the model computes on an accelerator.
        expected: tokens written a second by the speed model. None where `bandwidth` is, and with
            another backend or number of threads than kernels were measured with.
    """

    model: str
    backend: str
    threads: int | None
    model_bytes: int
    cache_type: str
    depth: int
    prompt_tokens: int
    completion_tokens: int
    prompt: Speed | None
    completion: Speed | None
    token_bytes: int
    bandwidth: Bandwidth | None
    expected: float | None

    @property
    def roofline_share(self) -> float | None:
        """Bytes that writing reads a second, by those that memory gives: 1 is the bound."""
        if self.completion is None or self.bandwidth is None:
            return None
        return self.completion.mean * self.token_bytes / self.bandwidth.bytes_per_s


def _never() -> bool:
    return False


def bench(
    model: str | os.PathLike[str] | None = None,
    *,
    prompt_tokens: int = 512,
    completion_tokens: int = 64,
    repetitions: int = 3,
    depth: int = 0,
    threads: int | None = None,
    gpu_layers: int | None = None,
    cache_type: str = "f16",
    backend: str | None = None,
    fit: bool = True,
    lora: Lora | Sequence[Lora] = (),
    cancelled: Callable[[], bool] = _never,
) -> BenchResult:
    """Measure a model's speed, with random tokens and greedy choice, after a run to warm up.

    As llama-bench does, a prompt is evaluated from an empty context (or behind `depth` tokens),
    and apart from it a text is written from there. The tokens that are written are sampled too,
    which llama-bench leaves out.

    Args:
        model: as in `edgellm.load`.
        prompt_tokens: 0 leaves that part out.
        completion_tokens: 0 leaves that part out.
        repetitions: how often each is measured.
        depth: tokens that are in the context before.
        threads: as in `edgellm.load`, like all that follow.
        gpu_layers: layers on an accelerator.
        cache_type: of keys and values.
        backend: its name.
        fit: refuse what seems not to fit in memory.
        lora: adapters, as in `edgellm.load`.
        cancelled: asked between tokens; True stops the measurement.

    Raises:
        UsageError: a value out of its range, or a context beyond what the model was trained on.
        CancelledError: `cancelled` gave True.
        DoesNotFitError: the model does not fit in memory.
    """
    for name, value, least, most in (
        ("prompt tokens", prompt_tokens, 0, MOST_TOKENS),
        ("tokens to write", completion_tokens, 0, MOST_TOKENS),
        ("repetitions", repetitions, 1, MOST_REPETITIONS),
        ("depth", depth, 0, MOST_TOKENS),
    ):
        if not least <= value <= most:
            raise UsageError(f"{name}: {value}, and must lie between {least} and {most}")
    if not prompt_tokens and not completion_tokens:
        raise UsageError("there is nothing to measure: no prompt, and no tokens to write")
    # the first token of a text that is written, and the one that is sampled but not evaluated
    size = depth + max(prompt_tokens, completion_tokens + 2)
    with load(
        model,
        context=size,
        threads=threads,
        gpu_layers=gpu_layers,
        cache_type=cache_type,
        backend=backend,
        fit=fit,
        lora=lora,
        cancelled=cancelled,
    ) as loaded:
        context = loaded.model.open_context(size, cache_type)
        try:
            meter = _Meter(loaded.model, context, depth, cancelled)
            prompt, completion = meter.measure(prompt_tokens, completion_tokens, repetitions)
        finally:
            context.close()
        needs = loaded.needs
        bandwidth = None
        if not loaded.devices:  # else the weights lie elsewhere, or are read by others
            bandwidth = read_bandwidth(probe_cpu(), probe_ram().available, measure_kernel)
        seen = depth + completion_tokens // 2
        expected = None
        if bandwidth is not None and loaded.model.threads == bandwidth.threads:
            expected = expected_speed(needs, seen, bandwidth, cache_type)
        return BenchResult(
            model=loaded.name,
            backend=loaded.backend,
            threads=loaded.model.threads,
            model_bytes=needs.weights,
            cache_type=cache_type,
            depth=depth,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            prompt=prompt,
            completion=completion,
            token_bytes=weights_read(needs) + cache_read(needs, seen, cache_type),
            bandwidth=bandwidth,
            expected=expected,
        )


class _Meter:
    """Measures one context."""

    def __init__(
        self, model: Model, context: Context, depth: int, cancelled: Callable[[], bool]
    ) -> None:
        self._model, self._context, self._cancelled = model, context, cancelled
        self._random = random.Random(0)
        self._before = self._tokens(depth)

    def measure(
        self, prompt: int, completion: int, repetitions: int
    ) -> tuple[Speed | None, Speed | None]:
        """Measure both, each after a short run that does not count."""
        read, written = [], []
        if prompt:
            self._read(prompt)
            read = [self._read(prompt) for _ in range(repetitions)]
        if completion:
            self._write(1)
            written = [self._write(completion) for _ in range(repetitions)]
        return Speed(tuple(read)) if read else None, Speed(tuple(written)) if written else None

    def _read(self, count: int) -> float:
        tokens = self._before + self._tokens(count)
        self._empty(tokens[0])
        if self._before:
            self._prefill(self._before)
        begin = time.perf_counter()
        kept = self._prefill(tokens)
        seconds = time.perf_counter() - begin
        return (len(tokens) - kept) / seconds

    def _write(self, count: int) -> float:
        tokens = self._before + self._tokens(1)
        self._empty(tokens[0])
        self._prefill(tokens)
        step = self._context.next_piece
        step()  # from the prompt's logits: nothing is evaluated
        begin = time.perf_counter()
        for _ in range(count):
            step()
            if self._cancelled():
                raise CancelledError
        return count / (time.perf_counter() - begin)

    def _empty(self, first: int) -> None:
        """Let the context hold nothing of a text that begins with this token."""
        self._prefill([0 if first else 1])

    def _prefill(self, tokens: list[int]) -> int:
        return self._context.prefill(tokens, GREEDY, self._cancelled)

    def _tokens(self, count: int) -> list[int]:
        size = self._model.vocabulary_size
        return [self._random.randrange(size) for _ in range(count)]
