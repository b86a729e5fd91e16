"""llguidance on a model's tokenizer: which tokens may follow, after each one."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import UsageError
from edgellm.generate.constraint import ConstraintSpec, JsonSchema, Regex

if TYPE_CHECKING:
    from edgellm.backends.base import Model

__all__ = ["Engine", "TokenConstraint", "engine_of"]

REMEMBERED = 16  # compiled constraints of a model
# A byte that is in no UTF-8 text marks a token that only a grammar's <|name|> stands for.
SPECIAL = b"\xff"
# JSON as Python's json.dumps writes it: models have read much of it, and white space that a small
# model may choose freely becomes an endless run of it.
JSON_FORM = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
NAMES = {JsonSchema: "JSON schema", Regex: "regular expression"}

_engines: weakref.WeakKeyDictionary[Model, Engine] = weakref.WeakKeyDictionary()


def engine_of(model: Model) -> Engine:
    """Give the engine of a model, which is made once."""
    if model not in _engines:
        _engines[model] = Engine(model)
    return _engines[model]


class Engine:
    """Compiles constraints for the tokens of one model."""

    def __init__(self, model: Model) -> None:
        import llguidance

        size = self._size = model.vocabulary_size
        vocabulary = _Vocabulary(model)
        self._ends = model.end_tokens
        self._tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(vocabulary),
            n_vocab=len(vocabulary.tokens),
            eos_token=sorted(self._ends) or [size],
            slices=[],
        )
        self._sliced: dict[bool, Any] = {}
        self._compiled: dict[ConstraintSpec, TokenConstraint] = {}

    def constraint(self, spec: ConstraintSpec) -> TokenConstraint:
        """Give a constraint at its beginning.

        Raises:
            UsageError: see `edgellm.generate.constraint.compile_constraint`.
        """
        found = self._compiled.pop(spec, None) or self._compile(spec)
        self._compiled[spec] = found  # the newest is the last
        while len(self._compiled) > REMEMBERED:
            del self._compiled[next(iter(self._compiled))]
        return found.copy()

    def _compile(self, spec: ConstraintSpec) -> TokenConstraint:
        import llguidance

        matcher = llguidance.LLMatcher
        what = NAMES.get(type(spec), "grammar")
        try:
            if isinstance(spec, JsonSchema):
                grammar = matcher.grammar_from_json_schema(spec.text, overrides=JSON_FORM)
            elif isinstance(spec, Regex):
                grammar = matcher.grammar_from_regex(spec.text)
            else:
                grammar = llguidance.grammar_from("grammar", spec.text)
        except ValueError as error:
            raise UsageError(f"the {what} cannot be used: {_sentence(error)}") from error
        compiled = matcher(self._tokenizer_for(spec), grammar, log_level=0)
        if compiled.is_error():
            raise UsageError(f"the {what} cannot be used: {_sentence(compiled.get_error())}")
        return TokenConstraint(compiled, self._size, self._tokenizer.vocab_size)

    def _tokenizer_for(self, spec: ConstraintSpec) -> Any:
        """Give the tokenizer with the sets of tokens that masks of JSON, or others, are made of."""
        is_json = isinstance(spec, JsonSchema)
        if is_json not in self._sliced:
            kind = type(self._tokenizer)
            slices = kind.json_slices() if is_json else kind.general_slices()
            self._sliced[is_json] = self._tokenizer.with_slices(slices)
        return self._sliced[is_json]


class TokenConstraint:
    """See `edgellm.backends.base.Constraint`.

    Args:
        matcher: llguidance's, behind the tokens that it took.
        size: the model's tokens.
        words: the matcher's tokens, of which there may be more.
    """

    def __init__(self, matcher: Any, size: int, words: int) -> None:
        self._matcher = matcher
        self._size = size
        self._words = words
        self._bits = np.zeros(-(-words // 32), np.uint32)

    @property
    def complete(self) -> bool:
        """Whether nothing but the end may follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def allows(self, token: int) -> bool:
        """Tell whether a token may come next."""
        allowed = bool(self._matcher.validate_tokens([token]) == 1)
        self._check()
        return allowed

    def mask(self) -> npt.NDArray[np.bool_]:
        """Give whether each token may come next, (vocabulary,)."""
        bits = self._bits
        self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        self._check()
        each = np.unpackbits(bits.view(np.uint8), count=self._size, bitorder="little")
        return each.view(np.bool_)

    def take(self, token: int) -> None:
        """Go on behind a token."""
        if not self._matcher.consume_token(token):
            self._check()

    def copy(self) -> TokenConstraint:
        """Give one of its own state."""
        return TokenConstraint(self._matcher.deep_copy(), self._size, self._words)

    def _check(self) -> None:
        if self._matcher.is_error():
            why = _sentence(self._matcher.get_error())
            raise UsageError(f"the text cannot go on under its constraint: {why}")


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    def __init__(self, model: Model) -> None:
        self._model = model
        size, ends = model.vocabulary_size, model.end_tokens
        self.tokens = [self._bytes(token) for token in range(size)]
        if not ends:  # it needs one: a token that the mask has no place for
            self.tokens.append(SPECIAL + b"<end>")
        self.eos_token_id = min(ends, default=size)
        self.bos_token_id = None
        self.special_token_ids = [
            token for token in range(size) if self.tokens[token].startswith(SPECIAL)
        ]

    def _bytes(self, token: int) -> bytes:
        try:
            raw = self._model.token_bytes(token)
        except UsageError:  # the model gives more logits than there are tokens
            return b""
        return raw if self._model.control_text(token) is None else SPECIAL + raw

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        return self._model.tokenize(text, special=False)


def _sentence(error: object) -> str:
    """Take the first line of what llguidance says: behind it follows its state."""
    return next((line for line in str(error).splitlines() if line.strip()), "no reason is given")
