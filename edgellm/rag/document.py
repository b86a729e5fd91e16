"""A document as it was read: pages of the text that is shown, with the headings in them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Document", "Heading", "Page"]


@dataclass(frozen=True)
class Heading:
    """A heading: its start in the page's text (in characters), its level from 1, its words."""

    start: int
    level: int
    title: str


@dataclass(frozen=True)
class Page:
    """A page's text as it is shown; spans of chunks and citations are offsets into it.

    `number` counts from 1: the page of a PDF, the part of an EPUB in reading order; a format
    without pages has one page whose number is None. `headings` come in the order of their start.
    """

    number: int | None
    text: str
    headings: tuple[Heading, ...] = ()


@dataclass(frozen=True)
class Document:
    """What a loader made of a file: its title, its pages, and the loader's name."""

    title: str
    loader: str
    pages: tuple[Page, ...]
