"""A Jinja environment for templates that come out of files nobody vouches for.

Jinja's ImmutableSandboxedEnvironment keeps a template away from Python's insides, but not from
looping for ever or building values that fill the memory. Here every render has a budget of
characters and of seconds. Four things make the limits hold:

- Values cannot be changed, so that a large one is made of smaller ones step by step. Each place
  where a template makes a list or mapping (literals, calls, filters, `+` and `*`) asks for its
  *size*: that of all it holds, counted as often as it is held. A value whose size is over the limit
  never comes into being, and so whatever Python does with one (compare, sort, hash, print) ends.
- What makes a text or a list pays for it from the budget, before it is made where it can be large.
- Comparisons, tests, filters, calls and turns of a loop look at the clock.
- Filters and methods of strings come from a list; only those whose cost is known are on it.
"""

from __future__ import annotations

import datetime
import functools
import json
import string
import threading
import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from edgellm.errors import TemplateError

__all__ = ["ChatEnvironment", "LimitError", "raise_exception"]

MAX_SECONDS = 10.0
MAX_PRODUCED = 64_000_000  # characters that one render may make, all together
MAX_SIZE = 32_000_000  # characters in one value
ITEM = 10  # what an item of a list, or a turn of a loop, costs in characters
VALUE = 100  # what a value inside a list adds to the list's size: Python's work on it
MAX_NUMBER_BITS = 4096
MAX_DIGITS = 100

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
CONTAINERS = (list, tuple, set, frozenset, Mapping, KeysView, ValuesView, ItemsView)

# The names under which templates reach our own checks; no template can write them.
CHECK, TURN = "(check)", "(turn)"


class LimitError(Exception):
    """A template went over one of the limits."""


class GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Give the body alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Guard(NodeTransformer):
    """Puts our checks into the code of a template, where Jinja asks nobody."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  (jinja2's names)
        """Look at the clock in each turn."""
        self.generic_visit(node)
        turn = nodes.ExprStmt(_filtered(nodes.Const(0, lineno=node.lineno), TURN))
        node.body.insert(0, turn.set_lineno(node.lineno))
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        """Look at the clock after a comparison."""
        return _filtered(self.generic_visit(node), TURN)

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        """Take the size of what a template makes."""
        return _filtered(self.generic_visit(node), CHECK)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        """Take the size of what a template makes."""
        return _filtered(self.generic_visit(node), CHECK)

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:  # noqa: N802
        """Take the size of a key before it is hashed."""
        self.generic_visit(node)
        node.key = _filtered(node.key, CHECK)
        return node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        """Take the size of what a template makes; `for a, b in` makes nothing."""
        self.generic_visit(node)
        return _filtered(node, CHECK) if node.ctx == "load" else node


def _filtered(node: nodes.Node, name: str) -> nodes.Expr:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class Budget:
    """What one render may still use, and the sizes of the containers that it met.

    The containers are kept, because their sizes are found by their `id`.
    """

    def __init__(self) -> None:
        self.produced = MAX_PRODUCED
        # Of the processor: other programs' time is not the template's, and it cannot wait.
        self.deadline = time.thread_time() + MAX_SECONDS
        self.sizes: dict[int, tuple[object, int]] = {}

    def spend(self, amount: int) -> None:
        """Take characters from the budget, and look at the clock."""
        self.produced -= amount
        if self.produced < 0:
            raise LimitError("it builds too large a text")
        if time.thread_time() > self.deadline:
            raise LimitError("it runs for too long")

    def size(self, value: Any) -> int:
        """Give the size of a value in characters.

        Raises:
            LimitError: it is too large.
            SecurityError: a container holds a namespace, whose size can change.
        """
        if isinstance(value, str):
            return len(value)
        if isinstance(value, int):
            return 1 + value.bit_length() // 3
        if isinstance(value, Namespace):
            raise SecurityError("a namespace is used as a value")
        if not isinstance(value, CONTAINERS):
            return VALUE
        known = self.sizes.get(id(value))
        if known is not None:
            return known[1]
        items = [*value.keys(), *value.values()] if isinstance(value, Mapping) else [*value]
        self.spend(ITEM * len(items))
        total = VALUE * (1 + len(items)) + sum(map(self.size, items))
        if total > MAX_SIZE:
            raise LimitError("it builds too large a list")
        self.sizes[id(value)] = (value, total)
        return total

    def check(self, value: Any) -> Any:
        """Give a value that has been made; a container's size is taken."""
        if isinstance(value, CONTAINERS):
            self.size(value)
        return value

    def collect(self, values: Iterable[Any]) -> list[Any]:
        """Give the items of an iterator, each of them paid."""
        found = []
        for value in values:
            self.spend(ITEM)
            found.append(value)
        self.size(found)
        return found


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Renders chat templates as transformers does (trimmed blocks, loop controls), with limits."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # folding constants would run operations outside of the budget
            extensions=["jinja2.ext.loopcontrols", GenerationTag],
            finalize=self._paid,
            cache_size=0,
        )
        self._lock = threading.Lock()
        self._budget = Budget()
        filters = {name: self.filters[name] for name in FILTERS}
        filters |= {"replace": self._replace, "join": self._join, "indent": self._indent}
        filters |= {"tojson": self._tojson, "round": _round}
        self.filters = {name: self._bounded(function) for name, function in filters.items()}
        self.filters[CHECK] = lambda value: self._budget.check(value)
        self.filters[TURN] = self._turn
        tests = cast("dict[str, Callable[..., Any]]", self.tests)
        self.tests = {name: self._timed(test) for name, test in tests.items()}
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
            try:
                return self._concat(template.root_render_func(template.new_context(variables)))
            finally:
                self._budget = Budget()  # the old one keeps what the template made

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        Guard().visit(tree)
        tree.set_environment(self)
        return tree

    # What the sandbox asks before an attribute, a call or an operation.

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Give a `str.format` of plain fields: a width makes a text of any size."""
        safe = super().wrap_str_format(value)
        if safe is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            fields = list(string.Formatter().parse(value.__self__))
            if any(width or conversion for _, _, width, conversion in fields):
                raise SecurityError("only plain fields can be formatted in a chat template")
            size = sum(map(self._budget.size, (*args, *kwargs.values())))
            self._budget.spend(len(value.__self__) + len(fields) * size)
            return safe(*args, **kwargs)

        return bounded

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
        budget = __self._budget
        for value in (*args, *kwargs.values()):
            # A macro is a template's own code, which may hand its namespaces around.
            if not (isinstance(value, Namespace) and isinstance(__obj, Macro)):
                budget.size(value)
        owner = getattr(__obj, "__self__", None)
        budget.spend(len(owner) + 1 if isinstance(owner, str | list | tuple | dict) else 1)
        if isinstance(owner, str):
            name = getattr(__obj, "__name__", "")
            if name == "replace" and len(args) >= 2:
                return __self._replace(owner, *args)
            if name == "join" and args:
                args = (__self._texts(args[0], len(owner)), *args[1:])
        return budget.check(super().call(__context, __obj, *args, **kwargs))

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
        return self._budget.check(super().call_binop(context, operator, left, right))

    # Bounded forms of what builds text.

    def _paid(self, value: Any) -> Any:
        """Pay for the text of a value before it is made."""
        self._budget.spend(self._budget.size(value))
        return value

    def _turn(self, value: Any) -> Any:
        """Pay for a turn of a loop or a comparison."""
        self._budget.spend(ITEM)
        return value

    def _concat(self, parts: Iterable[Any]) -> str:
        return "".join([str(self._paid(part)) for part in parts])

    def _texts(self, values: Iterable[Any], separator: int) -> list[str]:
        texts = []
        for value in values:
            self._budget.spend(separator + 1)
            texts.append(str(self._paid(value)))
        return texts

    def _replace(self, value: Any, old: Any, new: Any, count: int | None = -1) -> str:
        text, old, new = str(value), str(old), str(new)
        limit = -1 if count is None else count
        found = text.count(old) if limit < 0 else min(limit, text.count(old))
        self._budget.spend(len(text) + found * len(new))
        return text.replace(old, new, limit)

    @jinja2.pass_environment
    def _join(
        self,
        _environment: jinja2.Environment,
        value: Any,
        d: str = "",
        attribute: str | int | None = None,
    ) -> str:
        if attribute is not None:
            value = map(jinja2.filters.make_attrgetter(self, attribute), value)
        return str(d).join(self._texts(value, len(str(d))))

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
        encoder = json.JSONEncoder(
            ensure_ascii=ensure_ascii,
            indent=indent if indent is None else min(max(int(indent), 0), 16),
            separators=separators,
            sort_keys=sort_keys,
        )
        texts = []
        for text in encoder.iterencode(value):
            self._budget.spend(len(text))
            texts.append(text)
        return "".join(texts)

    def _bounded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a filter so that what it gets has a size, and what it gives has been paid."""
        position = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            budget = self._budget
            for value in (*args[position:], *kwargs.values()):
                budget.size(value)
            value = args[position]
            budget.spend(len(value) + 1 if hasattr(value, "__len__") else 1)
            result = function(*args, **kwargs)
            if isinstance(result, str):
                budget.spend(len(result))
            elif isinstance(result, Iterator):
                return budget.collect(result)
            return budget.check(result)

        return bounded

    def _timed(self, test: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(test)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._budget.spend(0)
            return test(*args, **kwargs)

        return timed


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if abs(precision) > MAX_DIGITS:
        raise LimitError("it computes too large a number")
    return jinja2.filters.do_round(value, precision, method)  # type: ignore[arg-type]


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
