"""SentencePiece BPE: merges of tokenizer.json <-> scores of GGUF, and whether they say the same.

llama.cpp merges the neighbours whose union is the token of the highest score, whatever the two
parts are; tokenizer.json lists the pairs by rank. The two agree if the list holds every pair of
tokens whose union is a token, grouped by that union. transformers writes lists of that form from
SentencePiece models: by score, then by the ids of left and right.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from edgellm_converters.errors import ConfigError, UnsupportedError

__all__ = ["Pair", "merges_from_scores", "scores_from_merges"]

Pair = tuple[str, str]

# Cutting a token in two everywhere takes time that grows with the square of its length. The longest
# tokens that merging reaches in vocabularies in use have some 50 characters.
MAX_LENGTH = 512
SPECIAL_SCORE = -1000.0  # what llama.cpp's converter gives to added tokens; nothing reads it


def merges_from_scores(path: Path, ids: Mapping[str, int], scores: Sequence[float]) -> list[Pair]:
    """List the pairs that llama.cpp would merge, first ones first.

    `ids` are the tokens that merging can reach: no bytes, control or user-defined ones. `scores`
    are by id.

    Raises:
        ConfigError: a score is not finite, or a token is too long.
    """
    _check_lengths(path, ids)
    ranked: list[tuple[float, int, int, Pair]] = []
    for token, index in ids.items():
        if len(token) < 2:
            continue
        score = scores[index]
        if not math.isfinite(score):
            raise ConfigError(f"{path}: the score of token {index} is {score}")
        for cut in range(1, len(token)):
            left = ids.get(token[:cut])
            if left is not None:
                right = ids.get(token[cut:])
                if right is not None:
                    ranked.append((-score, left, right, (token[:cut], token[cut:])))
    ranked.sort()
    return [pair for _, _, _, pair in ranked]


def scores_from_merges(
    path: Path,
    ids: Mapping[str, int],
    merges: Sequence[Pair],
    size: int,
    added: Collection[str] = (),
) -> list[float]:
    """Give each token a score that merges as the list does: minus the place of its first pair.

    Tokens without a pair follow in the order of their ids, as SentencePiece's own scores do;
    those that merging cannot reach (not in `ids`) get one of no meaning. `size` is the number of
    ids. `added` are tokens that are cut out of the text before merging: pairs with them need not
    be in the list.

    Raises:
        ConfigError: a pair is made of what are no tokens, or a token is too long.
        UnsupportedError: no scores say the same as the list; an example is named.
    """
    _check_lengths(path, ids)
    scores = [SPECIAL_SCORE] * size
    place: dict[str, int] = {}
    last = ""
    for left, right in merges:
        token = left + right
        if left not in ids or right not in ids or token not in ids:
            raise ConfigError(
                f"{path}: the merge {left!r:.80} + {right!r:.80} is not made of tokens"
            )
        if token != last:
            if token in place:
                raise UnsupportedError(
                    f"{path}: the merges into {token!r:.80} stand apart in the list, which "
                    "SentencePiece scores cannot say"
                )
            place[token] = len(place)
            last = token
    for token, rank in place.items():
        scores[ids[token]] = -float(rank)
    rest = sorted(index for token, index in ids.items() if token not in place)
    for offset, index in enumerate(rest):
        scores[index] = -float(len(place) + offset)
    plain = {token for token in ids if token not in added}
    _check_complete(path, plain, set(merges))
    return scores


def _check_lengths(path: Path, tokens: Iterable[str]) -> None:
    for token in tokens:
        if len(token) > MAX_LENGTH:
            raise ConfigError(
                f"{path}: the token {token[:40]!r}... has {len(token)} characters, "
                f"more than {MAX_LENGTH}"
            )


def _check_complete(path: Path, ids: Collection[str], merges: Collection[Pair]) -> None:
    """Refuse a list without a pair that llama.cpp would merge: it would tokenize otherwise."""
    missing, example = 0, ("", "")
    for token in ids:
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ids and right in ids and (left, right) not in merges:
                missing, example = missing + 1, (left, right)
    if missing:
        raise UnsupportedError(
            f"{path}: merges are missing for {missing} pairs of tokens whose union is a token "
            f"(such as {example[0]!r} + {example[1]!r}), but llama.cpp would merge them",
            hint="this is no SentencePiece model's tokenizer; GGUF can hold it only as "
            "byte-level BPE",
        )
