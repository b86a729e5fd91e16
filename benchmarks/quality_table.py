"""The tables and the picture of `quality.py`, from the rows that were kept."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgellm.evaluate.bootstrap import Comparison, paired_bootstrap
from edgellm.evaluate.quality import Scores
from quality_plot import draw

__all__ = ["load_scores", "write_tables"]

Row = dict[str, Any]

GOALS = {
    "same": {"2-3 bits": 0.65, "4 bits": 0.65, "5-6 bits": 0.75},
    "free": {"2-3 bits": 0.45, "4 bits": 0.5, "5-6 bits": 0.6},
    "mlx": {"2-3 bits": 0.4, "4 bits": 0.45, "5-6 bits": 0.6},
}
TITLES = {"same": "same types", "free": "free allocation", "mlx": "MLX affine"}
WAYS = {"plain": "ggml", "imatrix": "ggml, imatrix", "same": "same types", "free": "free"}
SIZES_DIFFER = 0.001  # files are held to be equally large up to this part


def load_scores(path: Path) -> tuple[Scores, ...]:
    """Read what `quality.save_scores` wrote."""
    with np.load(path) as arrays:
        names = list(dict.fromkeys(key.rpartition("|")[0] for key in arrays))
        return tuple(
            Scores(
                name,
                int(arrays[f"{name}|per_chunk"]),
                arrays[f"{name}|nll"],
                arrays[f"{name}|reference_nll"],
                arrays[f"{name}|kld"],
                arrays[f"{name}|agree"],
            )
            for name in names
        )


def write_tables(results: Path) -> str:
    """Give the tables as Markdown, and write them to `table.md` there, with `quality.svg`."""
    rows: list[Row] = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    found: dict[str, dict[str, dict[str, Row]]] = {}
    for row in rows:
        found.setdefault(row["model"], {}).setdefault(row["type"], {})[row["way"]] = row
    ratios: list[tuple[str, str, str, float]] = []
    parts = []
    for model, types in found.items():
        ggml = {name: ways for name, ways in types.items() if not name.startswith("mlx")}
        mlx = {name: ways for name, ways in types.items() if name.startswith("mlx")}
        if ggml:
            parts.append(_ggml_table(results, model, ggml, ratios))
        if mlx:
            parts.append(_mlx_table(results, model, mlx, ratios))
    parts.append(_goals(ratios))
    text = "\n\n".join(parts) + "\n"
    (results / "table.md").write_text(text, encoding="utf-8")
    (results / "quality.svg").write_text(draw(_panels(rows)), encoding="utf-8")
    return text


def _panels(rows: list[Row]) -> dict[str, dict[str, list[tuple[float, float, str]]]]:
    """Give the points of the picture."""
    panels: dict[str, dict[str, list[tuple[float, float, str]]]] = {}
    for row in rows:
        mlx = row["type"].startswith("mlx")
        title = f"{row['model']}, MLX" if mlx else str(row["model"])
        panel = panels.setdefault(title, {})
        point = (row["bytes"], row["all"]["kld"]["mean"], row["type"])
        way = str(row["way"])
        panel.setdefault(WAYS.get(way, way), []).append(point)
    return panels


def _compared(results: Path, base: Row, other: Row) -> Comparison | None:
    first, second = (
        load_scores(results / f"{row['model']}-{row['type']}-{row['way']}.npz")
        for row in (base, other)
    )
    return paired_bootstrap(first, second)


def _ratio(results: Path, base: Row | None, other: Row | None) -> tuple[float | None, str]:
    """Give the ratio of mean KL divergences, alone and as text with its interval."""
    if base is None or other is None:
        return None, "-"
    compared = _compared(results, base, other)
    if compared is None or compared.kld_ratio is None:
        return None, "-"
    ratio = compared.kld_ratio
    text = f"**{ratio.value:.2f}** ({ratio.low:.2f}-{ratio.high:.2f})"
    over = other["bytes"] / base["bytes"] - 1
    if abs(over) > SIZES_DIFFER:
        text += f" at {over:+.1%} bytes"
    return ratio.value, text


def _perplexity(results: Path, base: Row | None, other: Row | None) -> str:
    """Give the ratio of perplexities to the peer's, with its interval."""
    compared = _compared(results, base, other) if base and other else None
    if compared is None:
        return "-"
    each = compared.log_perplexity_difference
    return f"{math.exp(each.value):.3f} ({math.exp(each.low):.3f}-{math.exp(each.high):.3f})"


def _kld(row: Row | None) -> str:
    return "-" if row is None else f"{row['all']['kld']['mean']:.4f}"


def _cost(row: Row | None) -> str:
    if row is None or not row["cost"]:
        return "-"
    return f"{row['cost']['seconds']:.0f} s, {row['cost']['peak'] / 1e6:.0f} MB"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _head(*names: str) -> list[str]:
    return [_line(names), _line(["---"] * len(names))]


def _order(types: dict[str, dict[str, Row]]) -> list[tuple[str, dict[str, Row]]]:
    """Order types by size."""
    return sorted(types.items(), key=lambda item: min(row["bytes"] for row in item[1].values()))


def _ggml_table(
    results: Path, model: str, types: dict[str, dict[str, Row]], ratios: list[Any]
) -> str:
    any_row = next(iter(next(iter(types.values())).values()))
    scored = any_row["all"]["tokens"]
    lines = [
        f"### {model}",
        "",
        f"{any_row['weights'] / 1e6:.1f} M weights; {scored:,} scored tokens of "
        f"{', '.join(any_row['texts'])}; perplexity of the float model "
        f"{any_row['all']['reference_perplexity']:.2f}.",
        "",
        *_head(
            "type", "MB", "bpw", "KLD ggml", "imatrix", "same types", "ratio", "free", "ratio",
            "PPL same / imatrix", "PPL free / imatrix", "same took", "free took",
        ),
    ]  # fmt: skip
    for name, ways in _order(types):
        peer, same, free = ways.get("imatrix"), ways.get("same"), ways.get("free")
        some = peer or next(iter(ways.values()))
        texts = []
        for way, row in (("same", same), ("free", free)):
            value, text = _ratio(results, peer, row)
            texts.append(text)
            if value is not None:
                ratios.append((way, _bits(some), model, value))
        lines.append(
            _line(
                [
                    name,
                    f"{some['bytes'] / 1e6:.1f}",
                    f"{8 * some['bytes'] / some['weights']:.2f}",
                    _kld(ways.get("plain")),
                    _kld(peer),
                    _kld(same),
                    texts[0],
                    _kld(free),
                    texts[1],
                    _perplexity(results, peer, same),
                    _perplexity(results, peer, free),
                    _cost(same),
                    _cost(free),
                ]
            )
        )
    return "\n".join(lines)


def _bits(row: Row) -> str:
    """Give the class of a file: of the bits that most weights have, not of its name."""
    bits = row["layer_bits"]
    return "2-3 bits" if bits < 4 else "4 bits" if bits < 5.25 else "5-6 bits"


def _mlx_table(
    results: Path, model: str, types: dict[str, dict[str, Row]], ratios: list[Any]
) -> str:
    others = ("mlx-dynamic", "mlx-gptq", "mlx-dwq")
    lines = [
        f"### {model}, MLX",
        "",
        *_head("bits", "MB", "KLD mlx-lm", "edgellm", "ratio", "PPL", *others, "took"),
    ]
    for name, ways in sorted(types.items()):
        peer, same = ways.get("mlx-lm"), ways.get("mlx")
        some = peer or next(iter(ways.values()))
        value, text = _ratio(results, peer, same)
        if value is not None:
            ratios.append(("mlx", _bits(some), model, value))
        cells = [
            f"{_kld(row)} ({row['bytes'] / 1e6:.1f} MB)" if (row := ways.get(way)) else "-"
            for way in others
        ]
        lines.append(
            _line(
                [
                    name.removeprefix("mlx"),
                    f"{some['bytes'] / 1e6:.1f}",
                    _kld(peer),
                    _kld(same),
                    text,
                    _perplexity(results, peer, same),
                    *cells,
                    _cost(same),
                ]
            )
        )
    return "\n".join(lines)


def _goals(ratios: list[tuple[str, str, str, float]]) -> str:
    """Give the geometric means of the ratios by class of bits, beside what is aimed at."""
    lines = ["### Ratio of mean KL divergences to the peer's, geometric means", ""]
    lines += _head("", *(f"{each}: measured (goal)" for each in GOALS["same"]))
    for way, goals in GOALS.items():
        cells = [TITLES[way]]
        for bits, goal in goals.items():
            values = [value for w, b, _, value in ratios if (w, b) == (way, bits)]
            mean = math.exp(sum(map(math.log, values)) / len(values)) if values else None
            shown = "-" if mean is None else f"{mean:.3f}, of {len(values)}"
            cells.append(f"{shown} (<= {goal})")
        lines.append(_line(cells))
    return "\n".join(lines)
