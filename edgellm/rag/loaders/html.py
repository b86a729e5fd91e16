"""HTML: what a reader of the page sees, block by block.

What a browser does not show is not read: scripts, comments, elements that are hidden by an
attribute, by their style or by a simple rule of the page's own style sheet. Menus (nav) are left
out too. A text in the colour of its background is not told apart.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edgellm.rag.clean import clean
from edgellm.rag.document import Document, Page
from edgellm.rag.loaders.building import MAX_TITLE, PageBuilder, one_line
from edgellm.rag.loaders.encoding import decode
from edgellm.rag.loaders.errors import LoaderError
from edgellm.rag.loaders.limits import MAX_DEPTH
from edgellm.rag.loaders.text import read_bytes
from edgellm.rag.optional import package

__all__ = ["load", "page_of"]

_SKIPPED = frozenset(
    (
        "head", "script", "style", "template", "noscript", "iframe", "object", "svg", "math",
        "canvas", "audio", "video", "nav", "datalist", "select", "textarea", "dialog", "rp", "rt",
    )
)  # fmt: skip
_BLOCKS = frozenset(
    (
        "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details",
        "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3",
        "h4", "h5", "h6", "header", "hr", "legend", "li", "main", "menu", "ol", "p", "pre",
        "section", "summary", "table", "tbody", "tfoot", "thead", "tr", "ul",
    )
)  # fmt: skip
_CLOSE = frozenset(("dd", "dt", "li", "tr"))
_HIDING = re.compile(
    r"display:none|visibility:(?:hidden|collapse)|opacity:0(?:\.0+)?(?:;|!|$)"
    r"|font-size:0(?:\.0+)?(?:px|pt|em|rem|%)?(?:;|!|$)|(?:^|;)color:transparent"
    r"|(?:left|top|right|text-indent|margin-left|margin-top):-\d{3,}|clip:rect\(0[^)]*0\)"
    r"|clip-path:inset\((?:50|100)%|(?:^|;)(?:max-)?(?:height|width):0(?:px)?(?:;|!|$)"
    r"|transform:scale\(0\)"
)
_AT_RULE = re.compile(r"@[^{};]*(?:;|\{(?:[^{}]*\{[^{}]*\})*[^{}]*\})")
_RULE = re.compile(r"([^{}]{1,500})\{([^{}]*)\}")
_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
_CHARSET = re.compile(
    rb"<(?:meta|\?xml)[^>]{0,300}?(?:charset|encoding)\s*=\s*[\"']?([\w:.-]+)", re.I
)
MAX_RULES = 1000  # of the style sheet that may hide something
_TEXT = "-text"
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]{0,20})")
_CLOSED_BY_NEXT = frozenset(
    (
        "p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "option", "optgroup",
        "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param",
        "source", "track", "wbr", "path",
    )
)  # fmt: skip


def load(path: Path) -> Document:
    """Read an HTML file; its title is the page's."""
    data = read_bytes(path)
    declared = _CHARSET.search(data[:4096])
    title, page = page_of(decode(data, declared[1].decode("ascii") if declared else None), None)
    return Document(title or path.name, "html", (page,))


def page_of(markup: str, number: int | None) -> tuple[str, Page]:
    """Give the title ("" where there is none) and the text of a page of HTML or XHTML."""
    if markup.count("<") > MAX_DEPTH and _depth(markup) > MAX_DEPTH:
        raise LoaderError("is nested too deep")
    parser = package("selectolax.lexbor", "selectolax").LexborHTMLParser(markup)
    named = parser.css_first("title")
    title = one_line(clean(named.text()))[:MAX_TITLE] if named is not None else ""
    hidden = _hidden_by_rules(parser)
    reader = _Reader()
    # A stack of our own: pages nest as deep as somebody wants.
    stack: list[tuple[Any, bool]] = [(parser.body or parser.root, False)]
    while stack:
        node, leaving = stack.pop()
        if node is None:
            continue
        if leaving:
            reader.leave(node.tag)
        elif node.tag == _TEXT:
            reader.text(node.text_content or "")
        elif node.tag not in _SKIPPED and node.mem_id not in hidden and not _is_hidden(node):
            reader.enter(node.tag)
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(list(node.iter(include_text=True))))
    reader.flush()
    return title, reader.built.page(number)


def _depth(markup: str) -> int:
    """Give the most elements that can be open at once; one that its sibling closes is not counted.

    The parser looks through all open elements at each tag, so that its time grows with both.
    """
    depth = most = 0
    for end, name in _TAG.findall(markup):
        if name.lower() in _CLOSED_BY_NEXT:
            continue
        depth = max(0, depth - 1) if end else depth + 1
        most = max(most, depth)
    return most


class _Reader:
    """Collects the text of a block until the block ends."""

    def __init__(self) -> None:
        self.built = PageBuilder()
        self._parts: list[str] = []
        self._level: int | None = None
        self._close = False
        self._pre = 0

    def text(self, text: str) -> None:
        self._parts.append(text if self._pre else re.sub(r"[ \t\n\r\f]+", " ", text))

    def enter(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.flush()
            if not self._parts:  # the mark of an item waits for its text
                self._close = tag in _CLOSE
            if tag == "li":
                self._parts.append("- ")
            elif tag == "pre":
                self._pre += 1
            elif len(tag) == 2 and tag[0] == "h" and tag[1] in "123456":
                self._level = int(tag[1])
        elif tag == "br":
            self._parts.append("\n")
        elif tag in ("td", "th") and any(part.strip() for part in self._parts):
            self._parts.append(" | ")

    def leave(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.flush()
            if tag == "pre":
                self._pre -= 1

    def flush(self) -> None:
        text = "".join(self._parts)
        if not self._pre:
            text = "\n".join(line.strip(" ") for line in re.sub(" {2,}", " ", text).split("\n"))
        if text.strip() and text.strip() != "-":
            self.built.add(text, level=self._level, close=self._close)
            self._close = False
            self._parts = []
        elif text.strip() != "-":  # the mark of an item waits for the item's first block
            self._parts = []
        self._level = None


def _is_hidden(node: Any) -> bool:
    found = node.attributes
    if not found:
        return False
    if "hidden" in found or (found.get("aria-hidden") or "").strip().lower() == "true":
        return True
    style = found.get("style")
    return bool(style) and _hides(style)


def _hides(style: str) -> bool:
    return bool(_HIDING.search(re.sub(r"\s+|/\*.*?\*/", "", style.lower())))


def _hidden_by_rules(parser: Any) -> set[int]:
    """Give the elements that rules of the page's style sheets hide, whatever the screen."""
    hidden: set[int] = set()
    rules = 0
    for sheet in parser.css("style"):
        text = _AT_RULE.sub("", _COMMENT.sub("", sheet.text()))
        for selector, body in _RULE.findall(text):
            if ":" in selector or not _hides(body):  # a state of an element (:hover) is no rule
                continue
            rules += 1
            if rules > MAX_RULES:
                return hidden
            try:
                hidden.update(node.mem_id for node in parser.css(selector.strip()))
            except Exception:  # selectolax raises several for a selector that it cannot read
                continue
    return hidden
