"""What a quantized model says of its own making and quality, and how it is read again.

The receipt is one JSON object: in a GGUF file the text under `edgellm.receipt`, in an MLX folder
the file `edgellm_receipt.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgellm.errors import EdgellmError

__all__ = [
    "RECEIPT_FILE",
    "RECEIPT_KEY",
    "Calibrated",
    "Made",
    "Quality",
    "Receipt",
    "SourceFacts",
    "find_receipt",
    "parse_receipt",
]

RECEIPT_KEY = "edgellm.receipt"
RECEIPT_FILE = "edgellm_receipt.json"
VERSION = 1
KLD = ("mean", "error", "median", "p99", "p999")
MAX_BYTES = 16 << 20  # of a receipt that is read: some 100,000 tensors


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What was quantized: the name of the file or folder, its size and its hash."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What the values were chosen by: texts by name and hash, and the tokens that were read."""

    texts: Mapping[str, str]
    tokens: int
    context: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Made:
    """How one tensor was encoded.

    Attributes:
        type: the format.
        method: rtn, importance or gptq.
        error: the share of the output's energy that is lost, ||(W - Q) X||^2 / ||W X||^2, over
            tokens that were not fitted; None without a calibration.
        importance_error: the same for rounding with importance alone, to compare with.
    """

    type: str
    method: str
    error: float | None = None
    importance_error: float | None = None


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured on a text, in nats a token; top-1 agreement in percent.

    `sha256` is that of the text, empty for all texts together.
    """

    name: str
    language: str
    sha256: str
    tokens: int
    perplexity: float
    reference_perplexity: float
    kld: Mapping[str, float]
    top1_agreement: float


@dataclass(frozen=True, slots=True)
class Receipt:
    """The whole receipt.

    Attributes:
        source: what was quantized.
        request: what was asked for, such as {"type": "Q4_K_M"} or {"size": 250000000}.
        method: the method that was chosen.
        effort: fast, balanced or best.
        seed: of the order of texts and all samples.
        versions: of edgellm, llama.cpp's library and numpy.
        calibration: None where none was used.
        tensors: by name in the target.
        context: tokens in a chunk that quality was measured with.
        quality: for each text, and for all together under the name "all".
        data_sha256: of the tensors' bytes in the order of the file, which no edit of the metadata
            changes.
    """

    source: SourceFacts
    request: Mapping[str, Any]
    method: str
    effort: str
    seed: int
    versions: Mapping[str, str]
    calibration: Calibrated | None
    tensors: Mapping[str, Made]
    context: int = 0
    quality: tuple[Quality, ...] = ()
    data_sha256: str = ""
    version: int = field(default=VERSION)

    def to_json(self) -> str:
        """Give the text that is stored."""
        return json.dumps(self.as_dict(), ensure_ascii=False, separators=(",", ":"))

    def as_dict(self) -> dict[str, Any]:
        """Give plain values; of tensors, what is None is left out."""
        plain = asdict(self)
        plain["tensors"] = {
            name: {key: value for key, value in made.items() if value is not None}
            for name, made in plain["tensors"].items()
        }
        return plain


def parse_receipt(text: str, where: str) -> Receipt:
    """Read a receipt of a file that anyone may have written.

    Raises:
        EdgellmError: it is no receipt, or one of a later version.
    """
    problem = f"{where}: its receipt cannot be read"
    if len(text) > MAX_BYTES:
        raise EdgellmError(f"{problem}: more than {MAX_BYTES} characters")
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise TypeError("it is no object")
        if value.get("version") != VERSION:
            raise TypeError(f"it is of version {value.get('version')!r:.20}, not {VERSION}")
        source, calibration = value["source"], value["calibration"]
        return Receipt(
            source=SourceFacts(
                _text(source["name"]), _whole(source["bytes"]), _text(source["sha256"])
            ),
            request={
                _text(key): each if isinstance(each, int | float) else _text(each)
                for key, each in value["request"].items()
            },
            method=_text(value["method"]),
            effort=_text(value["effort"]),
            seed=_whole(value["seed"]),
            versions={_text(k): _text(v) for k, v in value["versions"].items()},
            calibration=None if calibration is None else _calibrated(calibration),
            tensors={_text(name): _made(made) for name, made in value["tensors"].items()},
            context=_whole(value["context"]),
            quality=tuple(_quality(each) for each in value["quality"]),
            data_sha256=_text(value["data_sha256"]),
        )
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise EdgellmError(f"{problem}: {str(error)[:200]}") from error


def find_receipt(path: Path, metadata: Mapping[str, object]) -> Receipt | None:
    """Give the receipt of a GGUF file (by its metadata) or of a folder; None if there is none.

    Raises:
        EdgellmError: it cannot be read.
    """
    if path.is_dir():
        file = path / RECEIPT_FILE
        if not file.is_file():
            return None
        if file.stat().st_size > MAX_BYTES:
            raise EdgellmError(f"{file}: larger than {MAX_BYTES} bytes")
        try:
            return parse_receipt(file.read_text("utf-8"), str(file))
        except UnicodeDecodeError as error:
            raise EdgellmError(f"{file}: not UTF-8 (at byte {error.start})") from error
    text = metadata.get(RECEIPT_KEY)
    return parse_receipt(text, str(path)) if isinstance(text, str) else None


def _calibrated(value: Mapping[str, Any]) -> Calibrated:
    return Calibrated(
        {_text(name): _text(each) for name, each in value["texts"].items()},
        _whole(value["tokens"]),
        _whole(value["context"]),
        _text(value["sha256"]),
    )


def _made(value: Mapping[str, Any]) -> Made:
    errors = (value.get(key) for key in ("error", "importance_error"))
    found = (None if each is None else _number(each) for each in errors)
    return Made(_text(value["type"]), _text(value["method"]), *found)


def _quality(value: Mapping[str, Any]) -> Quality:
    return Quality(
        name=_text(value["name"]),
        language=_text(value["language"]),
        sha256=_text(value["sha256"]),
        tokens=_whole(value["tokens"]),
        perplexity=_number(value["perplexity"]),
        reference_perplexity=_number(value["reference_perplexity"]),
        kld={each: _number(value["kld"][each]) for each in KLD},
        top1_agreement=_number(value["top1_agreement"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise TypeError(f"{value!r:.40} is no whole number in its range")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r:.40} is no number")
    return float(value)
