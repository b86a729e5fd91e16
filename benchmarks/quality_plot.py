"""A picture of size against KL divergence, as SVG: a panel for each model, a line for each way."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

__all__ = ["draw"]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 460, 340, 60, 46, 40
COLOURS = ("#888888", "#c26a00", "#1f6fb4", "#1a8a4a", "#8a3ab9")

Points = Sequence[tuple[float, float, str]]
"""Bytes, mean KL divergence in nats, and the type's name."""


def draw(panels: Mapping[str, Mapping[str, Points]]) -> str:
    """Draw panels of lines; the vertical axes are logarithmic."""
    parts = [_panel(at, title, lines) for at, (title, lines) in enumerate(panels.items())]
    size = f"width='{WIDTH * max(1, len(panels))}' height='{HEIGHT}'"
    style = "font-family='sans-serif' font-size='11'"
    white = "<rect width='100%' height='100%' fill='#ffffff'/>"
    return f"<svg xmlns='http://www.w3.org/2000/svg' {size} {style}>{white}{''.join(parts)}</svg>\n"


def _panel(at: int, title: str, lines: Mapping[str, Points]) -> str:
    points = [point for line in lines.values() for point in line]
    low_x, high_x = min(p[0] for p in points), max(p[0] for p in points)
    low_y, high_y = min(p[1] for p in points), max(p[1] for p in points)
    decades = math.log10(high_y / low_y) or 1.0

    def x(value: float) -> float:
        part = (value - low_x) / ((high_x - low_x) or 1)
        return at * WIDTH + LEFT + 10 + part * (WIDTH - LEFT - 40)

    def y(value: float) -> float:
        part = math.log10(value / low_y) / decades
        return HEIGHT - BOTTOM - 10 - part * (HEIGHT - BOTTOM - TOP - 20)

    bottom, left = HEIGHT - BOTTOM, at * WIDTH + LEFT
    out = [
        f"<text x='{left}' y='18' font-size='14'>{html.escape(title)}</text>",
        f"<path d='M{left} {TOP}V{bottom}H{left + WIDTH - LEFT - 20}' stroke='#444' fill='none'/>",
        f"<text x='{left + 120}' y='{HEIGHT - 8}'>size of the file, MB</text>",
    ]
    for exponent in range(math.floor(math.log10(low_y)), math.ceil(math.log10(high_y)) + 1):
        for digit in (1, 2, 5):
            value = digit * 10.0**exponent
            if low_y <= value <= high_y:
                out.append(f"<text x='{left - 6}' y='{y(value) + 4:.0f}' text-anchor='end'>")
                out.append(f"{value:g}</text><path stroke='#ddd' d='M{left} {y(value):.1f}")
                out.append(f"h{WIDTH - LEFT - 20}'/>")
    for step in range(5):
        value = low_x + (high_x - low_x) * step / 4
        out.append(f"<text x='{x(value):.0f}' y='{bottom + 16}' text-anchor='middle'>")
        out.append(f"{value / 1e6:.0f}</text>")
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        ordered = sorted(line)
        path = "L".join(f"{x(size):.1f} {y(kld):.1f}" for size, kld, _ in ordered)
        out.append(f"<path d='M{path}' stroke='{colour}' fill='none' stroke-width='1.5'/>")
        for size, kld, label in ordered:
            out.append(f"<circle cx='{x(size):.1f}' cy='{y(kld):.1f}' r='3' fill='{colour}'>")
            out.append(f"<title>{html.escape(f'{label} {name}: {kld:.4f}')}</title></circle>")
        legend = at * WIDTH + WIDTH - 150
        out.append(f"<text x='{legend}' y='{TOP + 8 + 15 * number}' fill='{colour}'>")
        out.append(f"{html.escape(name)}</text>")
    return "".join(out)
