"""Bars in groups as SVG, without dependencies: shares from 0 to 1, upwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.picture import HEIGHT, INK, LEFT, PALE, RIGHT, TOP, WIDTH, drawn_line, drawn_text

BOTTOM = 75
GRID = 5
COLOURS = ("#1f618d", "#28b463", "#f39c12", "#8e44ad", "#7b7d7d", "#c0392b")


def bars(
    title: str, groups: Sequence[str], names: Sequence[str], share: Mapping[tuple[str, str], float]
) -> str:
    """A bar for each of `share` by (group, name), where there is one; a legend of the names below.
    ValueError where there is nothing to draw, or more names than colours."""
    if not share or len(names) > len(COLOURS):
        raise ValueError("there must be bars, and a colour for each name")
    floor_y = HEIGHT - BOTTOM
    high = floor_y - TOP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        drawn_text(WIDTH / 2, 24, title, size=15),
    ]
    for tick in range(GRID + 1):
        y = floor_y - high * tick / GRID
        parts.append(drawn_line(LEFT, y, WIDTH - RIGHT, y, PALE if tick else INK))
        parts.append(drawn_text(LEFT - 8, y + 4, f"{tick / GRID:.0%}", anchor="end"))
    group_width = (WIDTH - LEFT - RIGHT) / len(groups)
    width = group_width * 0.85 / len(names)
    for at, group in enumerate(groups):
        left = LEFT + at * group_width + group_width * 0.075
        parts.append(drawn_text(LEFT + (at + 0.5) * group_width, floor_y + 19, group))
        for place, name in enumerate(names):
            value = share.get((group, name))
            if value is None:
                continue
            tall, x = high * value, left + place * width
            parts.append(
                f'<rect class="bar" x="{x:.1f}" y="{floor_y - tall:.1f}" width="{width - 2:.1f}"'
                f' height="{tall:.1f}" fill="{COLOURS[place]}"/>'
            )
            parts.append(drawn_text(x + width / 2, floor_y - tall - 4, f"{value:.2f}", size=9))
    step = (WIDTH - LEFT - RIGHT) / len(names)
    for place, name in enumerate(names):
        x, y = LEFT + place * step, HEIGHT - 18
        parts.append(
            f'<rect x="{x:.0f}" y="{y - 9}" width="12" height="9" fill="{COLOURS[place]}"/>'
        )
        parts.append(drawn_text(x + 18, y, name, anchor="start"))
    return "\n".join([*parts, "</svg>", ""])
