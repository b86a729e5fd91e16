"""Thoughts in a stream of text: told apart from the answer, and kept between two lengths.

The lengths are kept by budget forcing (Muennighoff et al. 2025, "s1: Simple test-time scaling"): a
thought that gets too long is ended by a sentence and the closing tag, which the model reads as its
own; where it would end too early, "Wait" stands in place of the tag.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from edgellm.backends.base import Tokenizer
from edgellm.generate.reasoning import Family, opened_in
from edgellm.generate.text import Utf8Stream, open_length
from edgellm.generate.view import is_persian

__all__ = ["Delta", "Step", "ThoughtParser", "ThoughtWatch"]

Kind = Literal["answer", "thinking"]

WAIT = {"en": "Wait", "fa": "صبر کن"}
ENOUGH = {
    "en": "\n\nI have thought enough, and answer now.\n",
    "fa": "\n\nبه اندازه فکر کردم و حالا پاسخ می‌دهم.\n",
}
TAIL = 64  # tokens of a prompt that are looked at for the beginning of a thought


class Delta(NamedTuple):
    """A piece of a text as it is written.

    Attributes:
        kind: what it belongs to.
        text: it; never empty.
    """

    kind: Kind
    text: str


class ThoughtParser:
    """Parts a text into thoughts and an answer, however it is cut into chunks.

    A thought stands before the answer alone: a tag within the answer is text.

    Attributes:
        state: "before" a thought or the answer, within the "thinking", or within the "answer".
    """

    def __init__(self, family: Family, *, opened: bool = False) -> None:
        self.state: Literal["before", "thinking", "answer"] = "thinking" if opened else "before"
        self._family = family
        self._thought = opened  # whether there was a thought
        self._held = ""

    @property
    def thinking(self) -> bool:
        """Whether it is within a thought."""
        return self.state == "thinking"

    @property
    def held(self) -> str:
        """What may turn out to be a tag, or stands before one."""
        return self._held

    def closes_at(self, text: str) -> int | None:
        """Give where in `held` and this text the thought ends; None if it does not."""
        return _first(self._held + text, self._family.closes)[0]

    def push(self, text: str) -> list[Delta]:
        """Take a chunk; give what is known of it, thoughts and answer in their order."""
        found: list[Delta] = []
        text, self._held = self._held + text, ""
        while text and self.state != "answer":
            text = self._think(text, found) if self.state == "thinking" else self._begin(text)
        if text:
            found.append(Delta("answer", text))
        return found

    def drop(self) -> None:
        """Forget what is held back: it does not stand in the text any more."""
        self._held = ""

    def skip(self) -> None:
        """Take the answer as begun."""
        self.state, self._held = "answer", ""

    def finish(self) -> list[Delta]:
        """Give what was held back: the text is over."""
        held, self._held = self._held, ""
        if self.state == "before" and self._thought and not held.strip():
            return []
        return [Delta("thinking" if self.state == "thinking" else "answer", held)] if held else []

    def _think(self, text: str, found: list[Delta]) -> str:
        """Take a thought from a text; give what follows it."""
        at, after = _first(text, self._family.closes)
        if at is None:
            keep = open_length(text, self._family.closes)
            thought, self._held = text[: len(text) - keep], text[len(text) - keep :]
            rest = ""
        else:
            thought, rest = text[:at], text[after:]
            self.state = "before"
        if thought:
            found.append(Delta("thinking", thought))
        return rest

    def _begin(self, text: str) -> str:
        """Take what begins a thought or an answer; give what follows it, "" if that is not known.

        Space before a tag, and between a thought and its answer, belongs to neither.
        """
        family = self._family
        bare = text.lstrip()
        tags = sorted((*family.opens, *family.answers), key=len, reverse=True)
        if not bare or any(tag != bare and tag.startswith(bare) for tag in tags):
            # gpt-oss: one tag is the end of another, none the beginning.
            self._held = text
            return ""
        for tag in tags:
            if bare.startswith(tag):
                self.state = "thinking" if tag in family.opens else "answer"
                self._thought = True
                return bare[len(tag) :]
        self.state = "answer"
        return bare if self._thought else text


class Step(NamedTuple):
    """What a token means.

    Attributes:
        deltas: the text that is known with it.
        put: tokens that are to stand in its place; None to leave it.
        back: how many tokens before it these stand in place of as well.
        answering: whether the answer has begun: no later token is of a thought.
    """

    deltas: Sequence[Delta]
    put: Sequence[int] | None = None
    back: int = 0
    answering: bool = False


@dataclass(slots=True)
class _Seen:
    """A token of a thought: where its text begins in the whole one, and that text."""

    start: int
    text: str


class ThoughtWatch:
    """Follows the tokens of one text until its answer begins, and says what has to be changed.

    Args:
        family: of the model.
        tokenizer: its vocabulary.
        budget: the most tokens of thinking, with all that ends it; negative for no limit. One that
            is smaller than the tags ends the thought at once.
        least: the fewest; not above the budget.
        constrained: whether the answer has a form: what stands between thought and answer is put
            there then, since the form does not allow it.

    Attributes:
        tokens: how many tokens the thinking has, its tags included where they are not the prompt's.
        parser: what it is told apart by.
    """

    def __init__(
        self,
        family: Family,
        tokenizer: Tokenizer,
        *,
        budget: int = -1,
        least: int = 0,
        constrained: bool = False,
    ) -> None:
        self.tokens = 0
        self.parser = ThoughtParser(family)
        self._family = family
        self._tokenizer = tokenizer
        self._budget = budget
        self._least = least
        self._constrained = constrained
        self._end = self._tokenize(family.closes[0] + family.answer)
        self._answer = self._tokenize(family.answer)
        texts = [ENOUGH[language] + family.closes[0] + family.answer for language in ENOUGH]
        self._longest_end = max(len(self._tokenize(text)) for text in texts)
        self._closing: list[int] | None = None
        marks = {token for mark in family.marks for token in self._tokenize(mark)}
        texts_of = {token: tokenizer.control_text(token) for token in marks}
        self._marks = {token: text.encode() for token, text in texts_of.items() if text}
        self._decode = Utf8Stream()
        self._length = 0  # characters of the text so far
        self._before = 0  # tokens that are no part of a thought yet
        self._recent: deque[_Seen] = deque(maxlen=64)
        self._thought: list[str] = []

    @property
    def end(self) -> str:
        """What ends an answer and is not part of it; "" for the end of the text alone."""
        return self._family.end

    @property
    def reserve(self) -> int:
        """How many tokens may be put at once to end the thought."""
        return self._longest_end if self._budget >= 0 else len(self._end)

    def begin(self, prompt: Sequence[int]) -> bool:
        """Take the prompt; tell whether the text begins within a thought, or may.

        Under a constraint the model cannot begin one itself.
        """
        tail = b"".join(self._tokenizer.token_bytes(token) for token in prompt[-TAIL:])
        if opened_in(tail.decode("utf-8", "replace"), self._family):
            self.parser = ThoughtParser(self._family, opened=True)
        elif self._constrained:
            self.parser.skip()
        return self.parser.state != "answer"

    def take(self, token: int | None, piece: bytes | None, left: int) -> Step:
        """Take a token that was sampled.

        Args:
            token: it.
            piece: its bytes; None for the end of the text.
            left: how many tokens there is room for, this one included.
        """
        if not self.parser.thinking:
            return self._outside(token, piece)
        text = "" if piece is None else self._text(token, piece)
        at = self.parser.closes_at(text)
        closing = self._overdue()
        if closing is not None and at is None:
            fitting = next((end for end in (closing, self._end) if len(end) <= left), None)
            if fitting is not None:
                return self._put_end(fitting)
        elif piece is None or (at is not None and self.tokens + 1 < self._least):
            step = self._wait(text, at, left)
            if step is not None:
                return step
            if len(self._end) <= left:
                return self._put_end(self._end)
        if piece is None:
            return Step(())
        deltas = self._seen(text)
        if at is not None and self._constrained:
            self.parser.skip()
            put = [*([] if token is None else [token]), *self._answer]
            if self._answer and len(put) <= left:
                self.tokens += len(self._answer)
                return Step(deltas, put, answering=True)
        return Step(deltas, answering=self.parser.state == "answer")

    def decode(self, piece: bytes) -> str:
        """Give the characters that are whole with the bytes of a token of the answer."""
        return self._decode.push(piece)

    def finish(self) -> list[Delta]:
        """Give what was held back: the text is over."""
        return self.parser.finish()

    def _outside(self, token: int | None, piece: bytes | None) -> Step:
        """Take a token before a thought, or between one and the answer."""
        if piece is None:
            return Step((), answering=True)
        text = self._text(token, piece)
        deltas = self.parser.push(text)
        self._length += len(text)
        if self.parser.thinking:
            self.tokens += self._before + 1
            self._before = 0
            self._thought += [delta.text for delta in deltas]
        elif self.parser.state == "before":
            self._before += 1
        return Step(deltas, answering=self.parser.state == "answer")

    def _text(self, token: int | None, piece: bytes) -> str:
        if not piece and token is not None:
            piece = self._marks.get(token, b"")
        return self._decode.push(piece)

    def _seen(self, text: str) -> list[Delta]:
        """Take the text of a token within a thought."""
        deltas = self.parser.push(text)
        self.tokens += 1
        self._recent.append(_Seen(self._length, text))
        self._length += len(text)
        self._thought += [delta.text for delta in deltas if delta.kind == "thinking"]
        return deltas

    def _overdue(self) -> list[int] | None:
        """Give what ends the thought, if the budget leaves room for nothing else."""
        if self._budget < 0 or self.tokens < self._budget - self._longest_end:
            return None
        if self._closing is None:
            text = ENOUGH[self._language()] + self._family.closes[0] + self._family.answer
            closing = self._tokenize(text)
            self._closing = closing if len(closing) <= self._budget else self._end
        return self._closing if self.tokens >= self._budget - len(self._closing) else None

    def _wait(self, text: str, at: int | None, left: int) -> Step | None:
        """Let the thought go on in place of its end; None if it is long enough, or has no room.

        Args:
            text: of the token that makes the closing tag whole; "" for the end of the text.
            at: where the tag begins, in what the parser holds and this text; it may have several
                tokens, which give way too.
            left: how many tokens there is room for.
        """
        held = self.parser.held
        full = held + text
        told = full if at is None else full[:at]
        begins = self._length - len(held) + len(told)
        back, before = 0, text[: max(0, len(told) - len(held))]
        for seen in reversed(self._recent):
            if (seen.start < begins and seen.start + len(seen.text) <= begins) or at is None:
                break
            back += 1
            # What of a token stands before the tag stays.
            before = seen.text[: max(0, begins - seen.start)] + before
        tokens = self.tokens - back
        if tokens >= self._least:
            return None
        wait = WAIT[self._language()]
        ending = told or "".join(self._thought[-4:])
        if ending and not ending[-1].isspace():
            wait = f"\n{wait}"
        put = self._tokenize(before + wait)
        full_budget = 0 <= self._budget < tokens + len(put) + self._longest_end
        if full_budget or len(put) > left + back:
            return None
        for _ in range(back):
            self._recent.pop()
        self.parser.drop()
        self._decode = Utf8Stream()
        self._length = begins + len(wait)
        self.tokens = tokens + len(put)
        self._thought.append(told + wait)
        return Step([Delta("thinking", told + wait)], put, back)

    def _put_end(self, closing: list[int]) -> Step:
        """End the thought; a minimum that this would miss is reached by empty lines."""
        short = self._least - self.tokens - len(closing)
        newline = self._tokenize("\n")
        tokens = [*(newline * (short // len(newline)) if short > 0 else ()), *closing]
        self._decode = Utf8Stream()  # half a character stays behind
        text = b"".join(self._tokenizer.token_bytes(token) for token in tokens)
        deltas = self.parser.push(text.decode("utf-8", "replace"))
        self.tokens += len(tokens)
        if self._constrained:
            self.parser.skip()
        return Step(deltas, tokens, answering=self.parser.state == "answer")

    def _language(self) -> Literal["en", "fa"]:
        return "fa" if is_persian("".join(self._thought)) else "en"

    def _tokenize(self, text: str) -> list[int]:
        return self._tokenizer.tokenize(text, special=True)


def _first(text: str, tags: Sequence[str]) -> tuple[int | None, int]:
    """Give where the first of some tags begins in a text, None for nowhere, and where it ends."""
    found = [(at, at + len(tag)) for tag in tags if (at := text.find(tag)) >= 0]
    return min(found) if found else (None, 0)
