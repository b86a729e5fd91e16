"""How byte-level BPE splits text before merging: a table of what tokenizer.json and GGUF call it.

GGUF holds only a name, behind which llama.cpp has the regular expressions compiled in. A row here
says which `pre_tokenizer` of a tokenizer.json that name stands for. To add one: a row, with the
expression of the model's tokenizer.json, and a look at llama.cpp's `llama-vocab.cpp` to see that
the name's expressions split alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgellm_converters.errors import UnsupportedError

__all__ = ["PRE_TOKENIZERS", "PreTokenizer", "by_layout", "by_name"]

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACES
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_LLAMA3 = _CONTRACTIONS + _WORD + r"|\p{N}{1,3}" + _REST
_QWEN2 = _CONTRACTIONS + _WORD + r"|\p{N}" + _REST
_QWEN35 = (
    _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    + _SPACES
)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Capitals before small letters; letters without case are both.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CAMEL = tuple(
    r"[^\r\n\p{L}\p{N}]?" + word for word in (f"{_UPPER}*{_LOWER}+", f"{_UPPER}+{_LOWER}*")
)
_SLASHES = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _SPACES
_TEKKEN = "|".join(_CAMEL) + r"|\p{N}" + _SLASHES
_GPT4O = "|".join(word + _CONTRACTIONS + "?" for word in _CAMEL) + r"|\p{N}{1,3}" + _SLASHES
_CAMEL_NOTE = (
    "combining marks, and capitals beside Latin letters with marks of their own, are split "
    "otherwise by llama.cpp"
)
_CJK = "[一-龥\u0800-一가-\ud7ff]+"
_KANA = "[一-龥\u3040-ゟ゠-ヿ]+"
_ASCII_SIGNS = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
_DEEPSEEK3 = (
    _ASCII_SIGNS + r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" + _SPACES
)
# The letters that Unicode cases, as DeepSeek's makers listed them.
_CASED = (
    "[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-"
    "\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1"
    "\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-"
    "\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15"
    "\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    "\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d"
    "\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183"
    "\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
    "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-"
    "\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb"
    "\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+"
)
_DEEPSEEK = (
    r"[\r\n]",
    r"\s?" + _CASED,
    r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
    r"\s+$",
    _CJK,
)
_BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
_SEED_CODER = _CONTRACTIONS + _WORD + r"|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+" + _SPACES
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_FALCON_SIGNS = r"[\p{P}\$\+<=>\^~\|`]+"


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One way to split.

    `name` is written to GGUF; `aliases` are names that llama.cpp treats alike. `steps` are the
    pre-tokenizers of tokenizer.json in canonical form, and `forms` other ones that split alike.
    `learned` are forms that split otherwise, but only where a vocabulary that was learned with them
    has nothing to merge. `ignore_merges` tells that a word that is a token is taken whole;
    `normalizer` is the one that such models have ("" for none), which llama.cpp leaves out. `note`
    says where llama.cpp splits otherwise, if it does.
    """

    name: str
    aliases: tuple[str, ...]
    steps: tuple[dict[str, object], ...]
    forms: tuple[tuple[dict[str, object], ...], ...] = ()
    learned: tuple[tuple[dict[str, object], ...], ...] = ()
    ignore_merges: bool = False
    normalizer: str = ""
    adds_bos: bool = False
    note: str = ""

    def layout(self) -> dict[str, object]:
        """Give the `pre_tokenizer` of tokenizer.json."""
        steps = [dict(step) for step in self.steps]
        return steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}


def _byte_level(*, use_regex: bool = False) -> dict[str, object]:
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


def _splits(*expressions: str) -> tuple[dict[str, object], ...]:
    """Split by one expression after the other, then write bytes as characters."""
    return (*map(_split, expressions), _byte_level())


def _digits(*, individual: bool) -> dict[str, object]:
    return {"type": "Digits", "individual_digits": individual}


PRE_TOKENIZERS: tuple[PreTokenizer, ...] = (
    PreTokenizer(
        "gpt-2",
        (
            *("phi-2", "gigachat", "mellum", "modern-bert", "exaone4", "mpt", "olmo", "jais"),
            *("jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "a.x-4.0", "trillion"),
            *("jina-v1-en", "jina-v2-code", "roberta-bpe", "granite-docling"),
        ),
        (_byte_level(use_regex=True),),
        forms=(_splits(_GPT2),),
    ),
    PreTokenizer(
        "smollm",
        ("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
        (_digits(individual=True), _byte_level(use_regex=True)),
        forms=((_split(r"\p{N}"), _byte_level(use_regex=True)), _splits(r"\p{N}", _GPT2)),
    ),
    PreTokenizer(
        "llama-bpe",
        (
            *("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
            "jina-v5-nano",
        ),
        _splits(_LLAMA3),
        ignore_merges=True,
        adds_bos=True,
    ),
    PreTokenizer("glm4", ("glm5",), _splits(_LLAMA3), ignore_merges=True),
    # The same expression as Llama 3's, but words are always merged from their letters.
    PreTokenizer("dbrx", ("smaug-bpe", "chatglm-bpe"), _splits(_LLAMA3)),
    PreTokenizer(
        "qwen2",
        ("deepseek-r1-qwen", "megrez", "kormo", "f2llmv2"),
        _splits(_QWEN2),
        normalizer="NFC",
    ),
    PreTokenizer("stablelm2", ("hunyuan", "solar-open", "grok-2"), _splits(_QWEN2)),
    PreTokenizer("qwen35", (), _splits(_QWEN35)),
    PreTokenizer("gpt-4o", ("llama4", "kanana2", "minimax-m2"), _splits(_GPT4O), note=_CAMEL_NOTE),
    PreTokenizer(
        "tekken", (), _splits(_TEKKEN), ignore_merges=True, adds_bos=True, note=_CAMEL_NOTE
    ),
    PreTokenizer(
        "falcon",
        (),
        _splits(_FALCON_SIGNS, _GPT2, "[0-9][0-9][0-9]"),
        learned=(
            (
                {"type": "Punctuation", "behavior": "Contiguous"},
                _byte_level(use_regex=True),
                _digits(individual=False),
                _split("[0-9][0-9][0-9]"),
            ),
        ),
    ),
    PreTokenizer("default", (), _splits(_FALCON_SIGNS, _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    PreTokenizer(
        "deepseek-llm",
        (),
        _splits(*_DEEPSEEK, r"\p{N}+"),
        learned=((*map(_split, _DEEPSEEK), _digits(individual=True), _byte_level()),),
    ),
    PreTokenizer(
        "deepseek-coder",
        (),
        (
            *map(_split, (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK)),
            _digits(individual=True),
            _byte_level(),
        ),
        forms=(_splits(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}"),),
    ),
    PreTokenizer(
        "deepseek-v3",
        ("hunyuan-dense", "joyai-llm"),
        _splits(r"\p{N}{1,3}", _KANA, _DEEPSEEK3),
    ),
    PreTokenizer(
        "bloom",
        ("poro-chat", "gpt3-finnish"),
        _splits(_BLOOM),
        forms=(_splits(r" ?[^(\s|[.,!?…。，、।۔،])]+"),),
    ),
    PreTokenizer("viking", (), _splits(_BLOOM, r"\p{N}")),
    PreTokenizer(
        "minicpm5",
        (),
        _splits(r"\p{N}{1,3}", _LLAMA3.replace("{1,3}", "+")),
        ignore_merges=True,
    ),
    PreTokenizer("seed-coder", (), _splits(_SEED_CODER)),
    PreTokenizer("bailingmoe", ("bailingmoe2", "llada-moe"), _splits(_BAILING)),
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
    rows = [
        row
        for row in PRE_TOKENIZERS
        if wanted in [_fingerprint(list(steps)) for steps in (row.steps, *row.forms, *row.learned)]
    ]
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
            found = {k: v for k, v in (defaults | step).items() if k != "trim_offsets"}
            plain.append(_isolated(found))
        else:
            plain.append(step)
    return json.dumps(plain, sort_keys=True, ensure_ascii=False)


def _isolated(step: Mapping[str, object]) -> Mapping[str, object]:
    """Write a split that drops what its expression does not match as one that keeps it.

    It is the same where the expression matches every character, as those do that end so.
    """
    pattern = step.get("pattern")
    expression = pattern.get("Regex") if isinstance(pattern, dict) else None
    inverted = step.get("behavior") == "Removed" and step.get("invert") is True
    if inverted and isinstance(expression, str) and expression.endswith(r"|\s+"):
        return {**step, "behavior": "Isolated", "invert": False}
    return step
