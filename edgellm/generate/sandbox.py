"""A Jinja environment for templates that come out of files nobody vouches for.

Jinja's ImmutableSandboxedEnvironment keeps a template away from Python's insides, but not from
looping for ever or building texts that fill the memory. Here every render has a budget of steps
(lines of template code that run), of seconds, and of characters that operations may produce;
filters and string methods come from a list; everything that can make something large out of
something small is bounded before it runs.
"""

from __future__ import annotations

import datetime
import functools
import json
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgellm.errors import TemplateError

__all__ = ["ChatEnvironment", "LimitError", "raise_exception"]

MAX_STEPS = 1_000_000  # lines of template code; a long conversation takes some ten thousand
MAX_SECONDS = 10.0
MAX_PRODUCED = 64_000_000  # characters and list items that operations make, all together
MAX_NUMBER_BITS = 4096
MAX_NODES = 200_000  # values inside one list or mapping that becomes text

# What chat templates use; everything else (lipsum, center, batch, xmlattr ...) is not there.
FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float",
    "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min", "reject",
    "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "sort", "string",
    "title", "trim", "unique", "upper",
)  # fmt: skip
STRING_METHODS = frozenset(
    (
        "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha",
        "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper",
        "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind",
        "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip",
        "swapcase", "title", "upper",
    )
)  # fmt: skip


class LimitError(Exception):
    """A template went over one of the limits."""


class GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Give the body alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Budget:
    """What one render may still use."""

    def __init__(self) -> None:
        self.steps = MAX_STEPS
        self.produced = MAX_PRODUCED
        self.deadline = time.monotonic() + MAX_SECONDS

    def spend(self, amount: int) -> None:
        """Take characters or items from the budget."""
        self.produced -= amount
        if self.produced < 0:
            raise LimitError("it builds too large a text")

    def step(self) -> None:
        """Take one line of template code from the budget."""
        self.steps -= 1
        if self.steps < 0:
            raise LimitError("it runs too many steps")
        if time.monotonic() > self.deadline:
            raise LimitError("it runs for too long")


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Renders chat templates as transformers does (trimmed blocks, loop controls), with limits."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # folding constants would run operations outside of the budget
            extensions=["jinja2.ext.loopcontrols", GenerationTag],
            finalize=self._finalize,
            cache_size=0,
        )
        self._lock = threading.Lock()
        self._budget = Budget()
        self.filters = {name: self._bounded(self.filters[name]) for name in FILTERS}
        self.filters["replace"] = self._replace
        self.filters["join"] = self._bounded_join_filter(jinja2.filters.FILTERS["join"])
        self.filters["indent"] = self._indent
        self.filters["tojson"] = self._tojson
        self.globals = {
            name: self.globals[name] for name in ("range", "namespace", "dict", "joiner", "cycler")
        }
        self.globals["raise_exception"] = raise_exception
        self.globals["strftime_now"] = strftime_now
        self.concat = self._concat  # type: ignore[method-assign]

    def render_limited(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        """Render within the limits.

        Raises:
            LimitError: a limit was reached.
            jinja2.TemplateError, TemplateError: the template fails or refuses the messages.
        """
        with self._lock:
            self._budget = Budget()
            # The code of `a ~ b` calls these names of its own module.
            namespace = template.root_render_func.__globals__
            namespace["str_join"] = namespace["markup_join"] = self._concat
            with _traced(template.root_render_func.__code__.co_filename, self._budget.step):
                return str(self._concat(template.root_render_func(template.new_context(variables))))

    # What the sandbox asks before an attribute, a call or an operation.

    def wrap_str_format(self, value: Any) -> None:
        """Give no safe `str.format`: a width in it makes a text of any size."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow the methods of strings by name, and of the rest what the sandbox allows."""
        if isinstance(obj, str) and callable(value):
            return attr in STRING_METHODS
        if isinstance(obj, bytes | int | float):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(
        __self,  # noqa: N805  (the template may give any keyword, `self` as well)
        __context: jinja2.runtime.Context,
        __obj: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Call something from a template, paying for the text that it walks over."""
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            __self._budget.spend(len(owner) + 1)
            name = getattr(__obj, "__name__", "")
            if name == "replace" and len(args) >= 2:
                return __self._replace(owner, *args)
            if name == "join" and args:
                args = (__self._items(args[0], len(owner)), *args[1:])
        return super().call(__context, __obj, *args, **kwargs)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Give an item or a slice; a slice is a copy that has to be paid for."""
        if isinstance(argument, slice) and isinstance(obj, str | list | tuple):
            self._budget.spend(len(obj))
        return super().getitem(obj, argument)

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        """Run `+ * ** %` where the result cannot become large."""
        sequences = [v for v in (left, right) if isinstance(v, str | bytes | list | tuple)]
        if operator == "%" and sequences:
            raise SecurityError("text formatting with % is not allowed in a chat template")
        if operator == "*" and sequences:
            times = right if sequences[0] is left else left
            self._budget.spend(len(sequences[0]) * max(0, times) if isinstance(times, int) else 0)
        elif sequences:
            self._budget.spend(sum(len(v) for v in sequences))
        elif operator == "**":
            if not (abs(left) < 2**32 and abs(right) <= 64):
                raise LimitError("it computes too large a number")
        elif (
            isinstance(left, int)
            and isinstance(right, int)
            and left.bit_length() + right.bit_length() > MAX_NUMBER_BITS
        ):
            raise LimitError("it computes too large a number")
        return super().call_binop(context, operator, left, right)

    # Bounded forms of what builds text.

    def _finalize(self, value: Any) -> Any:
        """Look at every value that is written out; containers become text with all they hold."""
        self._measure(value)
        return value

    def _measure(self, value: Any) -> None:
        """Pay for the text of a value before it is made."""
        if isinstance(value, str):
            self._budget.spend(len(value))
            return
        seen = 0
        open_values = [value]
        while open_values:
            item = open_values.pop()
            seen += 1
            if seen > MAX_NODES:
                raise LimitError("it writes out too large a list")
            if isinstance(item, str):
                self._budget.spend(len(item))
            elif isinstance(item, Mapping):
                open_values.extend(item.keys())
                open_values.extend(item.values())
            elif isinstance(item, list | tuple | set | frozenset):
                open_values.extend(item)

    def _concat(self, parts: Iterable[Any]) -> str:
        texts = []
        for part in parts:
            self._measure(part)
            texts.append(str(part))
        return "".join(texts)

    def _items(self, values: Iterable[Any], separator: int) -> list[str]:
        items = []
        for value in values:
            self._budget.spend(separator + 1)
            self._measure(value)
            items.append(str(value))
        return items

    def _replace(self, value: Any, old: Any, new: Any, count: int | None = -1) -> str:
        text, old, new = str(value), str(old), str(new)
        found = text.count(old) if count is None or count < 0 else min(count, text.count(old))
        self._budget.spend(len(text) + found * len(new))
        limit = -1 if count is None else count
        return text.replace(old, new, limit)

    def _indent(
        self, text: Any, width: int | str = 4, first: bool = False, blank: bool = False
    ) -> str:
        text = str(text)
        pad = width if isinstance(width, str) else " " * min(max(int(width), 0), 1000)
        self._budget.spend(len(text) + (text.count("\n") + 1) * len(pad))
        lines = text.split("\n")
        return "\n".join(
            pad + line if (index or first) and (line or blank) else line
            for index, line in enumerate(lines)
        )

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """Give JSON without HTML escapes, as the templates' authors saw it."""
        self._measure(value)
        if indent is not None:
            indent = min(max(int(indent), 0), 16)
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    def _bounded_join_filter(self, join: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(join)  # takes over the mark that asks jinja for its eval context
        def bounded(eval_ctx: Any, value: Any, d: str = "", attribute: Any = None) -> Any:
            if attribute is not None:
                return join(eval_ctx, self._paid(value), d, attribute)
            return str(d).join(self._items(value, len(str(d))))

        return bounded

    def _paid(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._measure(value)
            yield value

    def _bounded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a filter so that the text or list that it gets has been paid for."""
        position = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            value = args[position] if len(args) > position else None
            if isinstance(value, str | list | tuple | Mapping):
                self._budget.spend(len(value) + 1)
                if function in (jinja2.filters.FILTERS["string"], jinja2.filters.FILTERS["trim"]):
                    self._measure(value)
            return function(*args, **kwargs)

        return bounded


def raise_exception(message: object) -> NoReturn:
    """Let a template refuse its messages, as in transformers.

    Raises:
        TemplateError: always.
    """
    raise TemplateError(f"the model's chat template refuses the messages: {str(message)[:500]}")


def strftime_now(format: str) -> str:
    """Give the time of now, as in transformers."""
    if len(str(format)) > 100:
        raise LimitError("it asks for too long a date")
    return datetime.datetime.now().strftime(str(format))


@contextmanager
def _traced(filename: str, step: Callable[[], None]) -> Iterator[None]:
    """Call `step` for every line that runs in code of this file name, in this thread only."""

    def local(_frame: types.FrameType, event: str, _arg: object) -> Any:
        if event == "line":
            step()
        return local

    def tracer(frame: types.FrameType, _event: str, _arg: object) -> Any:
        return local if frame.f_code.co_filename == filename else None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        yield
    finally:
        sys.settrace(before)
