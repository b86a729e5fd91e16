"""How fast a model writes over minutes: what heat and a weak power supply leave of its speed."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgellm.api.adapters import Lora
from edgellm.api.chat import load
from edgellm.backends.base import CancelledError, Sampling
from edgellm.device.condition import probe_condition
from edgellm.errors import UsageError

__all__ = ["Sample", "SustainedResult", "sustain"]

MOST_MINUTES = 24 * 60
INTERVAL = 10.0  # seconds of a sample, if there is time for six of them
# Tokens of a text; then the next one begins, so that what is read of the cache stays small.
LENGTH = 128


@dataclass(frozen=True, slots=True)
class Sample:
    """An interval.

    Attributes:
        seconds: from the beginning to its end.
        tokens_per_s: tokens written a second in it.
        frequency: of the fastest core at its end, in Hz; None where nothing tells.
        temperature: of the hottest sensor at its end, in degrees Celsius; None where nothing tells.
        throttled: what slowed the machine down at its end, in the firmware's words.
    """

    seconds: float
    tokens_per_s: float
    frequency: float | None
    temperature: float | None
    throttled: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SustainedResult:
    """What was measured.

    Attributes:
        model: what the caller called it.
        backend: what ran it.
        threads: that computed; None where the backend does not take a number.
        samples: one for each interval.
        complete: whether all the time was measured.
    """

    model: str
    backend: str
    threads: int | None
    samples: tuple[Sample, ...]
    complete: bool

    @property
    def kept(self) -> float | None:
        """The speed of the last quarter of the samples, by that of the first; None for too few."""
        quarter = len(self.samples) // 4
        if not quarter:
            return None
        first, last = (
            statistics.fmean(sample.tokens_per_s for sample in part)
            for part in (self.samples[:quarter], self.samples[-quarter:])
        )
        return last / first


def sustain(
    model: str | os.PathLike[str] | None = None,
    minutes: float = 5,
    *,
    threads: int | None = None,
    gpu_layers: int | None = None,
    cache_type: str = "f16",
    backend: str | None = None,
    fit: bool = True,
    lora: Lora | Sequence[Lora] = (),
    cancelled: Callable[[], bool] = lambda: False,
    on_sample: Callable[[Sample], None] | None = None,
) -> SustainedResult:
    """Write texts for some minutes, one after the other, and measure each interval.

    Args:
        model: as in `edgellm.load`.
        minutes: how long.
        threads: as in `edgellm.load`, like all that follow.
        gpu_layers: layers on an accelerator.
        cache_type: of keys and values.
        backend: its name.
        fit: refuse what seems not to fit in memory.
        cancelled: asked between tokens; True ends it, and what was measured is the result.
        on_sample: is called with each sample, as it is there.

    Raises:
        UsageError: a value out of its range.
        CancelledError: `cancelled` gave True before there was a sample.
        DoesNotFitError: the model does not fit in memory.
    """
    if not 0 < minutes <= MOST_MINUTES:
        raise UsageError(f"minutes: {minutes:g}, and must lie between 0 and {MOST_MINUTES}")
    interval = min(INTERVAL, minutes * 10)
    greedy = Sampling(temperature=0)
    samples: list[Sample] = []
    size = LENGTH + 2
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
        draw = random.Random(0)
        context = loaded.model.open_context(size, cache_type)
        try:
            context.prefill([draw.randrange(loaded.model.vocabulary_size)], greedy, cancelled)
            context.next_piece()
            begin = since = time.perf_counter()
            count = 0
            while since - begin < 60 * minutes and not cancelled():
                first = draw.randrange(loaded.model.vocabulary_size)
                context.prefill([first], greedy, cancelled)
                for _ in range(LENGTH):
                    context.next_piece()
                    count += 1
                    now = time.perf_counter()
                    if now - since >= interval:
                        sample = _sample(now - begin, count / (now - since))
                        samples.append(sample)
                        if on_sample is not None:
                            on_sample(sample)
                        since, count = time.perf_counter(), 0
                        if since - begin >= 60 * minutes:
                            break
                    if cancelled():
                        break
        except CancelledError:
            pass
        finally:
            context.close()
        if not samples:
            raise CancelledError
        complete = samples[-1].seconds >= 60 * minutes
        return SustainedResult(
            loaded.name, loaded.backend, loaded.model.threads, tuple(samples), complete
        )


def _sample(seconds: float, speed: float) -> Sample:
    condition = probe_condition()
    return Sample(seconds, speed, condition.frequency, condition.temperature, condition.throttled)
