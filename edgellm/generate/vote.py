"""The answer within a text, and the answer that most texts give.

Self-consistency: several chains of thought are sampled, and the answer that most of them end with
is taken (Wang et al. 2022, "Self-Consistency Improves Chain of Thought Reasoning").
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation

from edgellm.errors import UsageError

__all__ = ["Extract", "extractor", "last_number", "majority", "plain"]

Extract = Callable[[str], str | None]

MAX_DIGITS = 100
# Persian and Arabic digits and their decimal and thousands signs, as ASCII has them.
_DIGITS = {ord(sign): str(at % 10) for at, sign in enumerate("۰۱۲۳۴۵۶۷۸۹٠١٢٣٤٥٦٧٨٩")}
_SIGNS = {**_DIGITS, ord("٫"): ".", ord("٬"): ",", ord("−"): "-"}
# A minus behind a word or another number is none of this one's.
_NUMBER = re.compile(r"(?:(?<!\w)-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
_BOXED = "\\boxed{"


def extractor(by: str) -> Extract:
    r"""Make what finds the answer in a text; it gives None where there is none.

    Args:
        by: "auto" (what stands in the last `\boxed{}`, else the last number, else the text),
            "boxed", "number" (the last one, of any digits), "text" (all of it), "choice:A,B,C" (the
            last of these words), or a regular expression of Python: the last match counts, of it
            the first group if there is one.

    Raises:
        UsageError: it is none of these.
    """
    known: dict[str, Extract] = {
        "auto": lambda text: _boxed(text) or last_number(text) or plain(text) or None,
        "boxed": _boxed,
        "number": last_number,
        "text": lambda text: plain(text) or None,
    }
    if by in known:
        return known[by]
    if by.startswith("choice:"):
        words = [word.strip() for word in by.removeprefix("choice:").split(",")]
        if not all(words):
            raise UsageError(f"choices are words between commas, not {by!r}")
        return _choice(words)
    try:
        pattern = re.compile(by)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(
            f"{by!r} is no regular expression: {error}",
            hint="or one of auto, number, boxed, text, choice:A,B,C",
        ) from None

    def match(text: str) -> str | None:
        found = next(iter(deque(pattern.finditer(text), maxlen=1)), None)
        if found is None:
            return None
        answer = found[1] if pattern.groups and found[1] is not None else found[0]
        return last_number(answer) if _is_number(answer) else plain(answer) or None

    return match


def majority(answers: Sequence[str | None]) -> tuple[str | None, dict[str, int]]:
    """Give the answer that occurs most, and how often each does, the most frequent first.

    Of equals the one that came first wins; texts without an answer (None) have no vote. Without any
    vote the answer is None.
    """
    votes: dict[str, int] = {}
    for answer in answers:
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + 1
    votes = dict(sorted(votes.items(), key=lambda item: -item[1]))
    return next(iter(votes), None), votes


def last_number(text: str) -> str | None:
    """Give the last number of a text in ASCII digits, as short as it can be written."""
    found = _NUMBER.findall(text.translate(_SIGNS))
    for digits in reversed(found):
        if len(digits) <= MAX_DIGITS:
            return _shortest(digits.replace(",", ""))
    return None


def plain(text: str) -> str:
    """Make texts equal that differ in case, spaces, marks at their ends and forms of characters."""
    text = unicodedata.normalize("NFKC", text).translate(_DIGITS).casefold()
    return " ".join(text.split()).strip(" .,;:!?*\"'`()[]«»؟،؛")


def _boxed(text: str) -> str | None:
    r"""Give what stands in the last \boxed{}, whose braces may be nested."""
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    start += len(_BOXED)
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            inner = text[start:at]
            return last_number(inner) if _is_number(inner) else plain(inner) or None
    return None


def _choice(words: Sequence[str]) -> Extract:
    names = {plain(word): word for word in words}
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    whole = re.compile(rf"(?<!\w)(?:{pattern})(?!\w)")

    def find(text: str) -> str | None:
        found = whole.findall(unicodedata.normalize("NFKC", text).translate(_DIGITS).casefold())
        return names[found[-1]] if found else None

    return find


def _is_number(text: str) -> bool:
    bare = text.translate(_SIGNS).strip().strip("$%. ")
    return _NUMBER.fullmatch(bare) is not None


def _shortest(digits: str) -> str:
    try:
        number = Decimal(digits)
    except InvalidOperation:
        return digits
    text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
