"""Summaries that the model itself makes, of a conversation or of a text, within its window."""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace

from edgellm.backends.base import CancelledError, Context, Model, Sampling
from edgellm.generate.engine import FixedPrompt, Generation
from edgellm.generate.options import GenerateOptions
from edgellm.generate.template import Message
from edgellm.generate.view import Render, Turn, View, is_persian, summary_texts

__all__ = ["Summarizer", "longest_beginning", "longest_end"]

MAX_ROUNDS = 8  # of summaries of summaries
TEXT_REQUESTS = {
    "en": "Summarise this text in a few short sentences. Keep names, numbers and facts.",
    "fa": "این متن را در چند جملهٔ کوتاه خلاصه کن. نام‌ها، عددها و نکته‌های مهم را نگه دار.",
}
TASK = {
    "en": "Keep above all what matters for this: {}",
    "fa": "بیش از همه آنچه را برای این درخواست مهم است نگه دار: {}",
}
# A sentence ends at its mark or at the end of its line.
ENDS = (".", "!", "?", "؟")
SENTENCE = re.compile(r"[^.!?؟\n]*[.!?؟\n]+\s*|[^.!?؟\n]+$")


class Summarizer:
    """Has a model summarise, greedily, in the context of the conversation itself.

    The request stands behind the turns that are to be summarised, so that what the context holds
    of them already is not evaluated again.

    Args:
        model: it.
        context: where it runs; what it holds is lost.
        render: gives the tokens of a view.
        limit: the most tokens of a summary.
        on_progress: is called with how much is summarised, of how much: turns, or pieces of a text.
    """

    def __init__(
        self,
        model: Model,
        context: Context,
        render: Render,
        limit: int,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._model = model
        self._context = context
        self._render = render
        self.limit = limit
        self._tell = on_progress or (lambda _done, _total: None)

    def recap(self, view: View, count: int, cancel: threading.Event) -> str:
        """Summarise a view's first `count` turns, and the summary before them; "" for nothing.

        What does not fit the window at once goes into it in pieces: each summary is part of what
        the next one summarises.

        Raises:
            CancelledError: `cancel` is set.
        """
        summary = view.summary
        turns = [
            tuple(replace(message, thinking="") for message in turn) for turn in view.turns[:count]
        ]
        while turns:
            self._tell(count - len(turns), count)
            request, opening, _ = summary_texts(_asked(turns))
            opened = self._model.tokenize(opening, special=False)
            room = self._context.size - self.limit - len(opened)
            asked = [
                View(view.system, (*turns[:n], (Message("user", request),)), summary)
                for n in range(len(turns), -1, -1)
            ]
            whole = next((ask for ask in asked[:-1] if len(self._render(ask)) <= room), None)
            if whole is None:
                left = room - len(self._render(asked[-1]))
                short = self._shortened(turns[0], left, cancel)
                whole = replace(asked[-1], turns=(short, *asked[-1].turns))
                if not short or len(self._render(whole)) > room:
                    return ""
            text = self._write([*self._render(whole), *opened], request, cancel)
            if not text:
                return ""
            summary = f"{opening}{'' if text[0] in ',.:;،؛' else ' '}{text}"
            del turns[: len(whole.turns) - 1]
        return summary or ""

    def digest(self, text: str, room: int, task: str, cancel: threading.Event) -> str:
        """Summarise a text to at most `room` tokens; "" for nothing.

        Each piece that fits the window is summarised, then the summaries together, until they fit.

        Args:
            text: of any length.
            room: tokens.
            task: what the text is needed for; "" if that is not known.
            cancel: ends that from any thread.

        Raises:
            CancelledError: `cancel` is set.
        """
        for _ in range(MAX_ROUNDS):
            if self._count(text) <= room:
                return text.strip()
            pieces = self._pieces(text, task)
            notes = []
            for number, piece in enumerate(pieces):
                self._tell(number, len(pieces))
                notes.append(self._note(piece, task, cancel))
            shorter = "\n".join(note for note in notes if note)
            if len(shorter) >= len(text):
                return ""
            text = shorter
        return ""

    def is_short(self, text: str) -> bool:
        """Tell whether a text may stand beside a summary: it has at most half of its tokens."""
        return self._count(text) <= self.limit // 2

    def _note(self, piece: str, task: str, cancel: threading.Event) -> str:
        view, request = self._ask(piece, task)
        return self._write(self._render(view), request, cancel)

    def _ask(self, piece: str, task: str) -> tuple[View, str]:
        """Give what asks for the summary of a piece, and the request in it."""
        language = "fa" if is_persian(piece) else "en"
        request = TEXT_REQUESTS[language]
        if task and self._count(task) <= self.limit:
            request = f"{request} {TASK[language].format(task)}"
        return View((), ((Message("user", f"{piece}\n\n{request}"),),)), request

    def _pieces(self, text: str, task: str) -> list[str]:
        """Cut a text into pieces that fit the window with their request; none if none fits."""
        pieces = []
        while text:
            room = self._context.size - self.limit

            def fits(piece: str, room: int = room) -> bool:
                return len(self._render(self._ask(piece, task)[0])) <= room

            piece = longest_beginning(text, self._context.size, fits)
            if not piece:
                return []
            pieces.append(piece)
            text = text[len(piece) :]
        return pieces

    def _shortened(self, turn: Turn, room: int, cancel: threading.Event) -> Turn:
        """Put digests in the place of long texts of a turn; () where that cannot be done."""
        share = room // (2 * len(turn))  # the other half is for what the template writes
        texts = []
        for message in turn:
            text = message.content
            if self._count(text) > share:
                text = self.digest(text, share, "", cancel) if share > 0 else ""
            if not text and message.content:
                return ()
            texts.append(Message(message.role, text))
        return tuple(texts)

    def _write(self, prompt: Sequence[int], request: str, cancel: threading.Event) -> str:
        options = GenerateOptions(Sampling(temperature=0), self.limit)
        result = Generation(self._context, FixedPrompt(prompt), options, cancel=cancel).read()
        if result.finish_reason == "cancelled":
            raise CancelledError
        return _whole_sentences(result.text, request, ended=result.finish_reason == "stop")

    def _count(self, text: str) -> int:
        return len(self._model.tokenize(text, special=False))


def _asked(turns: Sequence[Turn]) -> str:
    """Give what the person said, whose language the summary has."""
    return " ".join(message.content for turn in turns for message in turn if message.role == "user")


def _whole_sentences(text: str, request: str, *, ended: bool) -> str:
    """Drop what small models write beside a summary, and a sentence that is not whole.

    They say a sentence again and again, and say the request for the summary again.
    """
    found = [match.group() for match in SENTENCE.finditer(text)]
    if not ended and len(found) > 1 and not found[-1].rstrip().endswith(ENDS):
        found.pop()
    asked = _plain(request)
    kept: dict[str, str] = {}
    for sentence in found:
        plain = _plain(sentence)
        if plain not in asked:
            kept.setdefault(plain, sentence)
    return "".join(kept.values()).strip()


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip("".join(ENDS))


def longest_beginning(text: str, most: int, fits: Callable[[str], bool]) -> str:
    """Give the longest beginning of a text that fits, cut between words where there are any.

    Args:
        text: it.
        most: tokens that could fit: no more than 16 characters of each are tried.
        fits: tells whether a beginning fits.
    """
    low, high = 0, min(len(text), 16 * most)
    if high == len(text) and fits(text):
        return text
    while low < high:
        middle = (low + high + 1) // 2
        if fits(text[:middle]):
            low = middle
        else:
            high = middle - 1
    space = max(text.rfind(sign, low * 3 // 4, low) for sign in " \n") + 1
    return text[: space or _between_characters(text, low, -1)]


def longest_end(text: str, most: int, fits: Callable[[str], bool]) -> str:
    """Give the longest end of a text that fits, as `longest_beginning` gives the beginning."""
    low, high = max(0, len(text) - 16 * most), len(text)
    if not low and fits(text):
        return text
    while low < high:
        middle = (low + high) // 2
        if fits(text[middle:]):
            high = middle
        else:
            low = middle + 1
    last = low + (len(text) - low) // 4
    spaces = [at for sign in " \n" if (at := text.find(sign, low, last)) >= 0]
    return text[min(spaces) + 1 if spaces else _between_characters(text, low, 1) :]


def _between_characters(text: str, at: int, step: int) -> int:
    """Move a place so that no accent or joiner is parted from its letter."""
    while 0 < at < len(text) and (
        unicodedata.combining(text[at]) or text[at] in "\u200c\u200d" or text[at - 1] == "\u200d"
    ):
        at += step
    return at
