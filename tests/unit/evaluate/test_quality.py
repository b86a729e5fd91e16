"""Summaries of scored tokens, and the paired bootstrap, against formulas written out."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest

from edgellm.evaluate.bootstrap import paired_bootstrap
from edgellm.evaluate.quality import Scores, summarize

PER_CHUNK = 20


def scores(name: str, chunks: int, seed: int, kld: float = 0.1) -> Scores:
    rng = np.random.default_rng(seed)
    count = chunks * PER_CHUNK
    reference = rng.exponential(3, count).astype(np.float32)
    return Scores(
        name,
        PER_CHUNK,
        (reference + rng.normal(0.05, 0.2, count)).astype(np.float32),
        reference,
        rng.exponential(kld, count).astype(np.float32),
        rng.random(count) < 0.8,
    )


def test_a_summary_is_what_its_formulas_say():
    parts = [scores("a", 3, 1), scores("b", 5, 2)]
    quality = summarize(parts)
    nll = [float(x) for part in parts for x in part.nll]
    there = [float(x) for part in parts for x in part.reference_nll]
    kld = sorted(float(x) for part in parts for x in part.kld)
    agree = [bool(x) for part in parts for x in part.agree]
    count = len(nll)

    def error(values):
        return statistics.stdev(values) / math.sqrt(count)

    assert quality.tokens == count == 160
    assert quality.perplexity == pytest.approx(math.exp(statistics.fmean(nll)))
    assert quality.perplexity_error == pytest.approx(quality.perplexity * error(nll))
    assert quality.reference_perplexity == pytest.approx(math.exp(statistics.fmean(there)))
    ratios = [x - y for x, y in zip(nll, there, strict=True)]
    assert quality.perplexity_ratio == pytest.approx(math.exp(statistics.fmean(ratios)))
    assert quality.perplexity_ratio == pytest.approx(
        quality.perplexity / quality.reference_perplexity
    )
    assert quality.perplexity_ratio_error == pytest.approx(quality.perplexity_ratio * error(ratios))
    assert quality.kld.mean == pytest.approx(statistics.fmean(kld))
    assert quality.kld.error == pytest.approx(error(kld))
    assert quality.kld.median == pytest.approx(statistics.median(kld))
    assert quality.kld.maximum == kld[-1]
    for share, found in ((0.99, quality.kld.p99), (0.999, quality.kld.p999)):
        place = share * (count - 1)
        low = int(place)
        between = kld[low] + (place - low) * (kld[min(low + 1, count - 1)] - kld[low])
        assert found == pytest.approx(between)
    assert quality.top1_agreement == pytest.approx(100 * sum(agree) / count)
    assert quality.top1_agreement_error == pytest.approx(100 * error([float(x) for x in agree]))


def test_without_a_reference_there_is_perplexity_alone():
    quality = Scores("a", 2, np.array([1.0, 3.0], np.float32)).quality
    assert quality.perplexity == pytest.approx(math.exp(2))
    assert quality.kld is None
    assert quality.reference_perplexity is None
    with pytest.raises(ValueError, match="no tokens"):
        summarize([])


def test_a_broken_model_has_an_infinite_perplexity():
    assert Scores("a", 1, np.array([1e30], np.float32)).quality.perplexity == math.inf


def test_the_same_scores_do_not_differ():
    one = [scores("a", 6, 1), scores("b", 4, 2)]
    found = paired_bootstrap(one, one)
    for interval in (found.log_perplexity_difference, found.kld_difference):
        assert (interval.value, interval.low, interval.high) == (0, 0, 0)
        assert not interval.excludes_zero
    assert (found.kld_ratio.value, found.kld_ratio.low, found.kld_ratio.high) == (1, 1, 1)


def test_intervals_are_near_those_of_the_normal_law_and_seeded():
    """With many chunks the bootstrap's interval is the mean's by its standard error, 1.96 of it."""
    first, second = [scores("a", 400, 1)], [scores("a", 400, 3, kld=0.08)]
    found = paired_bootstrap(first, second, seed=5)
    assert paired_bootstrap(first, second, seed=5) == found
    assert paired_bootstrap(first, second, seed=6) != found
    for name, interval in (("nll", found.log_perplexity_difference), ("kld", found.kld_difference)):
        each = getattr(second[0], name) - getattr(first[0], name)
        chunks = each.astype(np.float64).reshape(400, PER_CHUNK).mean(axis=1)
        spread = 1.96 * chunks.std(ddof=1) / math.sqrt(400)
        assert interval.value == pytest.approx(chunks.mean())
        assert interval.low == pytest.approx(chunks.mean() - spread, abs=0.1 * spread)
        assert interval.high == pytest.approx(chunks.mean() + spread, abs=0.1 * spread)
    assert found.kld_difference.excludes_zero
    one, other = (
        each[0].kld.astype(np.float64).reshape(400, PER_CHUNK).mean(axis=1)
        for each in (first, second)
    )
    ratio = other.mean() / one.mean()
    # The delta method's standard error of a ratio of means.
    spread = 1.96 * (other - ratio * one).std(ddof=1) / math.sqrt(400) / one.mean()
    assert found.kld_ratio.value == pytest.approx(ratio)
    assert found.kld_ratio.low == pytest.approx(ratio - spread, abs=0.1 * spread)
    assert found.kld_ratio.high == pytest.approx(ratio + spread, abs=0.1 * spread)


def test_texts_keep_their_share():
    """Chunks that differ between texts only leave nothing to chance when drawn text by text."""
    first = [
        Scores(name, 4, np.full(4 * chunks, value, np.float32))
        for name, chunks, value in (("a", 3, 1.0), ("b", 7, 5.0))
    ]
    second = [replace(each, nll=each.nll * 1.5) for each in first]
    interval = paired_bootstrap(first, second).log_perplexity_difference
    assert interval.low == pytest.approx(interval.high) == pytest.approx(interval.value)


def test_what_cannot_be_compared():
    assert paired_bootstrap([scores("a", 1, 1)], [scores("a", 1, 2)]) is None
    with pytest.raises(ValueError, match="not the same tokens"):
        paired_bootstrap([scores("a", 2, 1)], [scores("b", 2, 1)])
    with pytest.raises(ValueError, match="not the same tokens"):
        paired_bootstrap([scores("a", 2, 1)], [scores("a", 3, 1)])
