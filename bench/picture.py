"""A line chart as SVG, without dependencies: linear across, logarithmic upwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 45, 105
TICKS_X = 6
INK, PALE = "#2c3e50", "#d5d8dc"


@dataclass(frozen=True, slots=True)
class Curve:
    """A line with its name. Points are (x, y), both at least 0, y above it."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]


def chart(title: str, x_label: str, y_label: str, curves: Sequence[Curve]) -> str:
    """The curves in one frame, a legend below. ValueError where there is nothing to draw."""
    drawn = [each for each in curves if each.points]
    if not drawn:
        raise ValueError("there is nothing to draw")
    x_max = max(x for each in drawn for x, _ in each.points)
    y_all = [y for each in drawn for _, y in each.points]
    low, high = floor(log10(min(y_all))), ceil(log10(max(y_all)))
    high = max(high, low + 1)
    floor_y = HEIGHT - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + x / x_max * (WIDTH - LEFT - RIGHT)
        return across, floor_y - (log10(y) - low) / (high - low) * (floor_y - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        drawn_text(WIDTH / 2, 24, title, size=15),
        drawn_text((LEFT + WIDTH - RIGHT) / 2, floor_y + 38, x_label),
        drawn_text(18, (TOP + floor_y) / 2, y_label, turned=True),
    ]
    for exponent in range(low, high + 1):
        _, y = place(0, 10.0**exponent)
        parts.append(drawn_line(LEFT, y, WIDTH - RIGHT, y, PALE))
        parts.append(drawn_text(LEFT - 8, y + 4, f"{10.0**exponent:g}", anchor="end"))
    step = _round_step(x_max / TICKS_X)
    for tick in range(int(x_max / step) + 1):
        x, _ = place(tick * step, 10.0**low)
        parts.append(drawn_line(x, floor_y, x, floor_y + 5, INK))
        parts.append(drawn_text(x, floor_y + 19, f"{tick * step:g}"))
    parts.append(drawn_line(LEFT, floor_y, WIDTH - RIGHT, floor_y, INK))
    for index, each in enumerate(drawn):
        parts.extend(_drawn(each, [place(x, y) for x, y in each.points], index))
    return "\n".join([*parts, "</svg>", ""])


def _drawn(curve: Curve, points: Sequence[tuple[float, float]], index: int) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x = LEFT + (index % 2) * (WIDTH - LEFT - RIGHT) / 2
    y = HEIGHT - BOTTOM + 62 + (index // 2) * 20
    return [
        f'<polyline points="{path}" fill="none" stroke="{curve.colour}" stroke-width="2"/>',
        f'<rect x="{x:.0f}" y="{y - 8:.0f}" width="18" height="4" fill="{curve.colour}"/>',
        drawn_text(x + 26, y, curve.name, anchor="start"),
    ]


def _round_step(step: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power: float = 10.0 ** floor(log10(step))
    return next(each * power for each in (1, 2, 5, 10) if each * power >= step)


def drawn_line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    """A line of this colour."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def drawn_text(
    x: float, y: float, text: str, *, size: int = 12, anchor: str = "middle", turned: bool = False
) -> str:
    """A text at this point; `turned`: upwards."""
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{INK}"'
        f"{turn}>{escape(text)}</text>"
    )
