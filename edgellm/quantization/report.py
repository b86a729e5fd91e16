"""A quantization as pictures: size against quality, and the error of every layer.

A PNG for each picture, and one HTML page that holds them all and needs no network.
"""

from __future__ import annotations

import base64
import html
import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm.errors import EdgellmError, UsageError
from edgellm.quantization.receipt import Made, Quality, Receipt
from edgellm_quant.facts import layer_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Point", "require_drawing", "write_report"]

PAGE = "report.html"
DOTS = 144  # an inch


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate that was measured: its size in bytes and mean KL divergence in nats a token."""

    name: str
    bytes: int
    kld: float


def require_drawing() -> None:
    """Check that there is a library to draw with, before hours of work.

    Raises:
        UsageError: there is none.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "a report needs matplotlib, which is not installed",
            hint="pip install 'edgellm[report]'",
        )


def write_report(folder: Path, receipt: Receipt, points: Sequence[Point], title: str) -> Path:
    """Write the pictures and the page; what has the same names is replaced.

    Args:
        folder: made if it is not there.
        receipt: of the model that was written; its quality may be empty.
        points: what was measured, the model itself among them.
        title: what the page is about, such as the file's name.

    Returns:
        The page.

    Raises:
        UsageError: there is no library to draw with.
        EdgellmError: the folder cannot be written.
    """
    require_drawing()
    pictures: dict[str, bytes] = {}
    if points:
        pictures["size-quality.png"] = _png(_size_quality(points))
    errors = {name: made for name, made in receipt.tensors.items() if made.error is not None}
    if errors:
        pictures["layers.png"] = _png(_layers(errors))
    page = folder / PAGE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in pictures.items():
            (folder / name).write_bytes(data)
        page.write_text(_page(receipt, points, pictures, title), "utf-8")
    except OSError as error:
        raise EdgellmError(f"{folder}: the report cannot be written: {error.strerror}") from error
    return page


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DOTS)
    return out.getvalue()


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes


def _size_quality(points: Sequence[Point]) -> Figure:
    """Draw mean KL divergence against size; what lies lower and to the left is better."""
    figure, axes = _figure(7, 4.5)
    for point in points:
        axes.plot(point.bytes / 1e6, point.kld, "o")
        axes.annotate(
            point.name,
            (point.bytes / 1e6, point.kld),
            textcoords="offset points",
            xytext=(6, 4),
            fontsize=8,
        )
    axes.set_xlabel("size, MB")
    axes.set_ylabel("mean KL divergence, nats per token")
    if all(point.kld > 0 for point in points):
        axes.set_yscale("log")
    axes.set_ylim(bottom=0 if axes.get_yscale() == "linear" else None)
    axes.margins(x=0.25, y=0.2)
    axes.set_title("Size against quality")
    return figure


def _layers(made: Mapping[str, Made]) -> Figure:
    """Draw the held-out relative output error of every tensor, a line for each part of a layer."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for name, each in made.items():
        layer = layer_of(name)
        if layer >= 0 and each.error is not None:
            part = name.split(".", 2)[2].removesuffix(".weight")
            lines.setdefault(part, []).append((layer, each.error))
    figure, axes = _figure(9, 4.5)
    for part, values in lines.items():
        layers, errors = zip(*sorted(values), strict=True)
        axes.plot(layers, errors, "o-", markersize=3, linewidth=1, label=part)
    axes.set_yscale("log")
    axes.set_xlabel("layer")
    axes.set_ylabel("share of the output's energy that is lost")
    axes.set_title("Error of each tensor on held-out text")
    if lines:
        axes.legend(fontsize=7, ncols=2)
    return figure


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "img{max-width:100%}table{border-collapse:collapse;font-size:14px}"
    "td,th{padding:.2rem .6rem;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}"
    "@media(prefers-color-scheme:dark){body{background:#151515;color:#ddd}"
    "td,th{border-color:#444}img{background:#fff}}"
)


def _page(
    receipt: Receipt, points: Sequence[Point], pictures: Mapping[str, bytes], title: str
) -> str:
    asked = ", ".join(f"{key} {value}" for key, value in receipt.request.items())
    facts = f"{receipt.source.name} → {asked}; method {receipt.method}, effort {receipt.effort}"
    if (calibration := receipt.calibration) is not None:
        facts += f"; calibrated on {calibration.tokens:,} tokens"
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(title)}</h1><p>{html.escape(facts)}</p>",
    ]
    parts += [
        f"<p><img alt='{name}' src='data:image/png;base64,{base64.b64encode(data).decode()}'></p>"
        for name, data in pictures.items()
    ]
    if points:
        measured = [(p.name, f"{p.bytes / 1e6:.1f}", f"{p.kld:.4f}") for p in points]
        parts += ["<h2>Candidates</h2>", _table(("", "MB", "mean KLD"), measured)]
    if receipt.quality:
        parts += ["<h2>Quality against the source</h2>", _quality(receipt.quality)]
    rows = [
        (name, made.type, made.method, _number(made.error), _number(made.importance_error))
        for name, made in receipt.tensors.items()
    ]
    head = ("tensor", "type", "method", "error", "error with importance alone")
    return "\n".join([*parts, "<h2>Tensors</h2>", _table(head, rows), "</html>\n"])


def _quality(quality: Sequence[Quality]) -> str:
    head = ("text", "language", "tokens", "perplexity", "source's", "KLD mean", "99 %", "top-1")
    rows = [
        (
            each.name,
            each.language,
            f"{each.tokens:,}",
            f"{each.perplexity:.3f}",
            f"{each.reference_perplexity:.3f}",
            _number(each.kld.get("mean")),
            _number(each.kld.get("p99")),
            f"{each.top1_agreement:.2f} %",
        )
        for each in quality
    ]
    return _table(head, rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"
