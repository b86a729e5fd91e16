"""llguidance on a model's tokenizer: which tokens may follow, after each one."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import UsageError
from edgellm.generate.constraint import ConstraintSpec
from edgellm.generate.constraint_errors import first_line
from edgellm.generate.constraint_grammar import compiled, grammar_of, name_of

if TYPE_CHECKING:
    from edgellm.backends.base import Model

__all__ = ["Engine", "TokenConstraint", "engine_of"]

REMEMBERED = 16  # compiled constraints of a model
# A byte that is in no UTF-8 text marks a token that only a grammar's <|name|> stands for.
SPECIAL = b"\xff"
# What is tokenized before a text, so that it is tokenized as in the middle of one.
BEFORE = ("", "\x02", "\n")

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

        vocabulary = _Vocabulary(model)
        self._size = vocabulary.size
        self._tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(vocabulary),
            n_vocab=len(vocabulary.tokens),
            eos_token=vocabulary.ends,
        )
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
        from llguidance import LLMatcher

        grammar = grammar_of(spec)
        tokenizer = self._tokenizer
        matcher = compiled(
            spec, lambda limits: LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
        )
        found = TokenConstraint(matcher, tokenizer, self._size)
        try:
            begins = bool(found.copy().mask().any())
        except UsageError:  # there is no way on
            begins = False
        if not begins:
            raise UsageError(
                f"the {name_of(spec)} cannot be used: no text of this model's tokens satisfies it"
            )
        return found


class TokenConstraint:
    """See `edgellm.backends.base.Constraint`.

    Args:
        matcher: llguidance's, behind the tokens that it took.
        tokenizer: llguidance's; it may have more tokens than the model.
        size: the model's tokens.
    """

    def __init__(self, matcher: Any, tokenizer: Any, size: int) -> None:
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._size = size
        self._bits = np.zeros(-(-tokenizer.vocab_size // 32), np.uint32)

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

    def forced(self, token: int) -> Sequence[int]:
        """Give tokens that spell what has to follow behind this one."""
        matcher = self._matcher
        if matcher.validate_tokens([token]) != 1:
            return ()
        matcher.consume_token(token)
        found: Sequence[int] = matcher.compute_ff_tokens()
        matcher.rollback(1)
        return found

    def satisfied_by(self, text: str) -> bool:
        """Tell whether the text may end behind this one, which goes on from here."""
        matcher = self._matcher.deep_copy()
        tokens = self._tokenizer.greedy_tokenize(text)
        return bool(matcher.consume_tokens(tokens) and matcher.is_accepting())

    def copy(self) -> TokenConstraint:
        """Give one of its own state."""
        return TokenConstraint(self._matcher.deep_copy(), self._tokenizer, self._size)

    def _check(self) -> None:
        if self._matcher.is_error():
            why = first_line(self._matcher.get_error())
            raise UsageError(f"the text cannot go on under its constraint: {why}")


class _Vocabulary:
    """What llguidance asks of a tokenizer.

    Attributes:
        size: the model's tokens.
        tokens: what each stands for.
        ends: those that end a text; if the model has none, one that is not the model's.
    """

    def __init__(self, model: Model) -> None:
        # The engine keeps this for ever, and must not keep the model.
        self._model = weakref.ref(model)
        self.size = model.vocabulary_size
        self.tokens = [_bytes(model, token) for token in range(self.size)]
        self.ends = sorted(model.end_tokens)
        if not self.ends:
            self.ends.append(self.size)
            self.tokens.append(SPECIAL + b"<end>")
        self.eos_token_id = self.ends[0]
        self.bos_token_id = None
        self.special_token_ids = [
            token for token, raw in enumerate(self.tokens) if raw.startswith(SPECIAL)
        ]

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        model = self._model()
        if model is None:
            return []
        # Within a text no space belongs before it, which many tokenizers put there.
        raw = text.encode()
        for before in BEFORE:
            tokens = model.tokenize(before + text, special=False)
            for first in range(min(4, len(tokens))):
                if b"".join(map(self.tokens.__getitem__, tokens[first:])) == raw:
                    return tokens[first:]
        return self._longest(raw)

    @functools.cached_property
    def _numbers(self) -> tuple[dict[bytes, int], int]:
        """Each token by its bytes, and the length of the longest."""
        numbers = {piece: token for token, piece in enumerate(self.tokens)}
        return numbers, max(map(len, numbers))

    def _longest(self, raw: bytes) -> list[int]:
        """Cut bytes into the longest tokens, where the tokenizer changes the text, as NFC does."""
        numbers, most = self._numbers
        found = []
        while raw:
            size = next((n for n in range(min(most, len(raw)), 0, -1) if raw[:n] in numbers), 0)
            if not size:  # no token begins so
                break
            found.append(numbers[raw[:size]])
            raw = raw[size:]
        return found


def _bytes(model: Model, token: int) -> bytes:
    """Give what a token stands for; nothing where the model gives more logits than tokens."""
    try:
        raw = model.token_bytes(token)
    except UsageError:
        return b""
    return raw if model.control_text(token) is None else SPECIAL + raw
