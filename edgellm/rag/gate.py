"""Whether a library says anything about a question: what was found, against what always is.

A search always finds something. How good the best of it is says whether it is an answer, and that
depends on the library and its embedder. So a library is asked questions that it does not hold the
answers of, from many fields: a question whose best chunk is no better than theirs usually is has no
answer in it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from edgellm.rag.normalise import query_terms

__all__ = [
    "FOREIGN",
    "Evidence",
    "Gate",
    "calibrate",
    "evidence",
    "rarity_of",
    "read_gate",
    "write_gate",
]

# Questions of many fields, each too narrow for most libraries. In a library that does hold the
# answers of some, the others set the gate.
FOREIGN = (
    "What is the melting point of tungsten carbide?",
    "Who refereed the 1978 world cup final?",
    "How many moons does the planet Neptune have?",
    "Which glaze is used on raku pottery?",
    "What is the gestation period of a tapir?",
    "Who composed the opera Wozzeck?",
    "How is puff pastry laminated?",
    "What year was the Suez canal opened?",
    "Which enzyme unwinds the DNA double helix?",
    "What does a carburettor float do?",
    "How long is a cricket pitch in yards?",
    "Who painted the ceiling of the Palais Garnier?",
    "What is the tax rate on dividends in Estonia?",
    "Which knot joins two ropes of different thickness?",
    "How deep is lake Baikal?",
    "What is the plural of octopus in Greek?",
    "Which chess opening begins with c4?",
    "How do you prune a wisteria in winter?",
    "What is the speed of sound in helium?",
    "Who wrote The Good Soldier Svejk?",
    "نقطه ذوب تنگستن چند درجه است؟",
    "داور فینال جام جهانی ۱۹۷۸ که بود؟",
    "سیاره نپتون چند قمر دارد؟",
    "دوره بارداری تاپیر چند ماه است؟",
    "آهنگساز اپرای وتسک کیست؟",
    "کانال سوئز در چه سالی افتتاح شد؟",
    "عمق دریاچه بایکال چقدر است؟",
    "سرعت صوت در هلیوم چقدر است؟",
    "هرس درخت گلیسین چه زمانی انجام می‌شود؟",
    "نرخ مالیات سود سهام در استونی چقدر است؟",
)
REFUSED = 0.9  # of those questions that the gate keeps out
LEAST_COVERAGE, MOST_COVERAGE = 0.15, 0.75
LEAST_COSINE, MOST_COSINE = 0.2, 0.75
STEM = 4  # letters that have to be equal at least, where endings differ
SUFFIX = ".gate"


@dataclass(frozen=True, slots=True)
class Evidence:
    """How well the best chunk fits a question.

    Attributes:
        coverage: the share of the question's words that it has, rare words counting for more, 0..1.
        cosine: of its vector with the question's; None where meanings were not searched.
    """

    coverage: float
    cosine: float | None


@dataclass(frozen=True, slots=True)
class Gate:
    """What evidence has to reach, in either of the two.

    Attributes:
        coverage: of words.
        cosine: of meanings; None for a library without vectors.
    """

    coverage: float
    cosine: float | None

    def opens(self, found: Evidence) -> bool:
        """Tell whether a question may be answered."""
        if found.coverage > self.coverage:
            return True
        return found.cosine is not None and self.cosine is not None and found.cosine > self.cosine


def evidence(
    question: str,
    chunks: Sequence[tuple[str, float | None]],
    rarity: Callable[[str], float],
) -> Evidence:
    """Give how well the chunks fit a question, each measure by the one that fits best.

    Args:
        question: in any words.
        chunks: texts with the cosines of their vectors.
        rarity: gives the weight of a term.
    """
    terms = query_terms(question)
    weights = {term: rarity(term) for term in terms}
    total = sum(weights.values())
    best = 0.0
    for text, _ in chunks:
        there = set(query_terms(text))
        found = sum(
            weight
            for term, weight in weights.items()
            if term in there or any(_akin(term, other) for other in there)
        )
        best = max(best, found / total if total else 0.0)
    cosines = [cosine for _, cosine in chunks if cosine is not None]
    return Evidence(best, max(cosines, default=None))


def rarity_of(documents: int, holding: int) -> float:
    """Weigh a term by how few documents hold it: BM25's idf (Robertson and Zaragoza 2009)."""
    return math.log(1 + (documents - holding + 0.5) / (holding + 0.5))


def calibrate(measure: Callable[[str], Evidence]) -> Gate:
    """Set the gate so that nine in ten of the foreign questions do not pass.

    Args:
        measure: searches the library, and gives the evidence of a question.
    """
    found = [measure(question) for question in FOREIGN]
    coverage = _quantile([each.coverage for each in found], REFUSED)
    cosines = [each.cosine for each in found if each.cosine is not None]
    cosine = min(max(_quantile(cosines, REFUSED), LEAST_COSINE), MOST_COSINE) if cosines else None
    return Gate(min(max(coverage, LEAST_COVERAGE), MOST_COVERAGE), cosine)


def read_gate(library: Path, state: str) -> Gate | None:
    """Read the gate that was set for this state of a library; None if there is none."""
    try:
        found = json.loads(_place(library).read_text(encoding="utf-8"))
        if found["state"] != state:
            return None
        cosine = found["cosine"]
        return Gate(float(found["coverage"]), None if cosine is None else float(cosine))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_gate(library: Path, state: str, gate: Gate) -> None:
    """Keep a gate beside its library; where that cannot be written, it is set anew next time."""
    place = _place(library)
    partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
    with suppress(OSError):
        partial.write_text(json.dumps({"state": state, **asdict(gate)}) + "\n", encoding="utf-8")
        partial.replace(place)


def _place(library: Path) -> Path:
    return library.with_name(library.name + SUFFIX)


def _akin(term: str, other: str) -> bool:
    """Tell whether two words differ in no more than an ending of three letters."""
    alike = max(STEM, len(term) - 3, len(other) - 3)
    return len(term) > STEM and len(other) >= alike and other.startswith(term[:alike])


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
