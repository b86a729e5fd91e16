"""How byte-level BPE splits text before merging: a table of what tokenizer.json and GGUF call it.

GGUF holds only a name, behind which llama.cpp has the regular expressions compiled in. A row here
says which `pre_tokenizer` of a tokenizer.json that name stands for. To add one: a row, with the
expression of the model's tokenizer.json, and a look at llama.cpp's `llama-vocab.cpp` to see that
the name's expressions split alike.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edgellm_converters.errors import UnsupportedError

__all__ = ["PRE_TOKENIZERS", "PreTokenizer", "by_layout", "by_name"]

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One way to split.

    `name` is written to GGUF; `aliases` are names that llama.cpp treats alike. `steps` are the
    pre-tokenizers of tokenizer.json in canonical form. `ignore_merges` tells that a word that is
    a token is taken whole; `normalizer` is the one that such models have ("" for none), which
    llama.cpp leaves out.
    """

    name: str
    aliases: tuple[str, ...]
    steps: tuple[dict[str, object], ...]
    ignore_merges: bool = False
    normalizer: str = ""
    adds_bos: bool = False

    def layout(self) -> dict[str, object]:
        """Give the `pre_tokenizer` of tokenizer.json."""
        steps = [dict(step) for step in self.steps]
        return steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}


def _byte_level(*, use_regex: bool) -> dict[str, object]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _split(expression: str) -> dict[str, object]:
    return {
        "type": "Split",
        "pattern": {"Regex": expression},
        "behavior": "Isolated",
        "invert": False,
    }


PRE_TOKENIZERS: tuple[PreTokenizer, ...] = (
    PreTokenizer(
        "gpt-2",
        ("phi-2", "gigachat", "mellum", "modern-bert", "exaone4", "mpt", "olmo", "jais"),
        (_byte_level(use_regex=True),),
    ),
    PreTokenizer(
        "smollm",
        ("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
        ({"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True)),
    ),
    PreTokenizer(
        "llama-bpe",
        ("llama3", "llama-v3", "falcon3", "pixtral"),
        (_split(_LLAMA3), _byte_level(use_regex=False)),
        ignore_merges=True,
        adds_bos=True,
    ),
    # The same expression as Llama 3's, but words are always merged from their letters.
    PreTokenizer(
        "dbrx",
        ("smaug-bpe",),
        (_split(_LLAMA3), _byte_level(use_regex=False)),
    ),
    PreTokenizer(
        "qwen2",
        ("deepseek-r1-qwen", "megrez"),
        (_split(_QWEN2), _byte_level(use_regex=False)),
        normalizer="NFC",
    ),
)


def by_name(path: Path, name: str) -> PreTokenizer:
    """Find the pre-tokenizer behind a GGUF name.

    Raises:
        UnsupportedError: the name is not in the table.
    """
    for row in PRE_TOKENIZERS:
        if name == row.name or name in row.aliases:
            return row
    raise UnsupportedError(
        f"{path}: the pre-tokenizer {name!r} is not known here",
        hint=f"known are: {', '.join(row.name for row in PRE_TOKENIZERS)}; a new one is a row in "
        "edgellm_converters/tokenizers/pretokenizers.py",
    )


def by_layout(path: Path, pre_tokenizer: object, *, ignore_merges: bool = False) -> PreTokenizer:
    """Find the row whose steps a tokenizer.json's `pre_tokenizer` has.

    Of several rows, the one that takes merges alike; the first if none does.

    Raises:
        UnsupportedError: no row has them; the hint shows what a new row needs.
    """
    wanted = _fingerprint(_steps(pre_tokenizer))
    rows = [row for row in PRE_TOKENIZERS if _fingerprint(list(row.steps)) == wanted]
    if rows:
        return next((row for row in rows if row.ignore_merges == ignore_merges), rows[0])
    shown = wanted if len(wanted) <= 300 else wanted[:297] + "..."
    raise UnsupportedError(
        f"{path}: this pre_tokenizer is not known here: {shown}",
        hint="add a row with the name that llama.cpp has for it to "
        "edgellm_converters/tokenizers/pretokenizers.py",
    )


def _steps(pre_tokenizer: object) -> list[object]:
    """Flatten nested sequences into their steps."""
    if not isinstance(pre_tokenizer, dict):
        return [] if pre_tokenizer is None else [pre_tokenizer]
    inner = pre_tokenizer.get("pretokenizers")
    if pre_tokenizer.get("type") == "Sequence" and isinstance(inner, list):
        return [step for each in inner for step in _steps(each)]
    return [pre_tokenizer]


def _fingerprint(steps: list[object] | list[dict[str, object]]) -> str:
    """Write steps as text, without what does not change the tokens."""
    plain: list[object] = []
    for step in steps:
        if isinstance(step, dict):
            defaults = {"use_regex": True} if step.get("type") == "ByteLevel" else {}
            plain.append({k: v for k, v in (defaults | step).items() if k != "trim_offsets"})
        else:
            plain.append(step)
    return json.dumps(plain, sort_keys=True, ensure_ascii=False)
