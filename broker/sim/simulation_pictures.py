"""Pictures of a played workload as SVG: who held which slot, what was loaded when, who waited how
long. Pure text, coloured by the page's style sheet, so that light and dark readers can read them.

Rules: what is narrower than a thousandth of a picture is drawn together with its neighbours, so
that a picture of a million requests is hardly larger than one of a thousand.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from broker.sim.recording import Stretch, StretchKind
from broker.sim.sessions import SECOND_NS
from broker.sim.workload_sites import Backend

WIDTH: Final = 1000
LEFT: Final = 92
RIGHT: Final = 26
INNER: Final = WIDTH - LEFT - RIGHT
PIECES_MAX: Final = 1000  # in a lane
COLOURS: Final = 10  # classes c0 to c9 of the style sheet
_MODEL_HEIGHT: Final = 16
_SLOT_HEIGHT_MAX, _SLOT_HEIGHT_MIN = 10, 3
_AXIS_HEIGHT: Final = 24
_POINTS_MAX: Final = 200
_LEAST_WAIT_S: Final = 0.1  # of a logarithmic axis: what waited less stands here
_STEPS_S: Final = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200)
_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The waits of some requests. `colour` is a class of the style sheet."""

    name: str
    colour: str
    waits_s: Sequence[float]


def colours_of(models: Iterable[str]) -> dict[str, str]:
    """A class for each model, in their order."""
    return {name: f"c{number % COLOURS}" for number, name in enumerate(models)}


# Once on a page: the pattern that lies over what is loading.
HATCH: Final = (
    '<svg width="0" height="0" style="position:absolute"><defs><pattern id="hatch" width="5" '
    'height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="2.5" height="5" class="hatch"/></pattern></defs></svg>'
)


def legend(colours: Mapping[str, str]) -> str:
    """Names beside their colours, as HTML."""
    return _keys([*colours.items(), ("loading", "load")])


def _keys(names: Iterable[tuple[str, str]]) -> str:
    keys = [
        f'<span class="key"><i class="{colour}"></i>{escape(name)}</span>' for name, colour in names
    ]
    return f'<p class="legend">{"".join(keys)}</p>'


def gantt(
    backend: Backend,
    stretches: Iterable[Stretch],
    colours: Mapping[str, str],
    begin_ns: int,
    end_ns: int,
) -> str:
    """One backend: above which models it held and loaded, below its slots."""
    mine = [each for each in stretches if each.backend == backend.name]
    models = _lanes(each for each in mine if each.kind is not StretchKind.RUNNING)
    slots = _lanes(each for each in mine if each.kind is StretchKind.RUNNING)
    slot_height = max(_SLOT_HEIGHT_MIN, min(_SLOT_HEIGHT_MAX, 160 // max(1, len(slots))))
    models_height = max(1, len(models)) * _MODEL_HEIGHT
    slots_top = models_height + 8
    floor = slots_top + max(1, len(slots)) * slot_height
    scale = INNER / max(1, end_ns - begin_ns)
    parts = [
        _svg(floor + _AXIS_HEIGHT, f"Slots and loads of {backend.name}"),
        _label(LEFT - 8, models_height / 2 + 4, "models", "end"),
        _label(LEFT - 8, (slots_top + floor) / 2 + 4, "slots", "end"),
    ]
    for place, (_, lane) in enumerate(sorted(models.items())):
        parts += _bars(lane, colours, begin_ns, scale, place * _MODEL_HEIGHT, _MODEL_HEIGHT - 2)
    for place, (_, lane) in enumerate(sorted(slots.items())):
        top = slots_top + place * slot_height
        parts += _bars(lane, colours, begin_ns, scale, top, slot_height - 1)
    parts += _time_axis((end_ns - begin_ns) / SECOND_NS, floor)
    return "\n".join([*parts, "</svg>"])


def waits(curves: Sequence[Curve], title: str) -> str:
    """Of each group, which share had waited for how long at most; time is logarithmic."""
    drawn = [each for each in curves if each.waits_s]
    height, top = 300, 12
    floor = height - 44
    longest = max((max(each.waits_s) for each in drawn), default=1.0)
    decades = max(1, math.ceil(math.log10(max(longest, 1.0) / _LEAST_WAIT_S)))

    def across(wait_s: float) -> float:
        return LEFT + math.log10(max(wait_s, _LEAST_WAIT_S) / _LEAST_WAIT_S) / decades * INNER

    parts = [_svg(height, title)]
    for percent in (0, 25, 50, 75, 90, 99, 100):
        y = floor - percent / 100 * (floor - top)
        parts.append(_rule(LEFT, y, WIDTH - RIGHT, y, "grid"))
        if percent != 99:  # its words would lie on those of 100
            parts.append(_label(LEFT - 8, y + 4, f"{percent} %", "end"))
    for decade in range(decades + 1):
        x = across(_LEAST_WAIT_S * 10**decade)
        parts.append(_rule(x, top, x, floor, "grid"))
        words = f"{_LEAST_WAIT_S * 10**decade:g} s"
        parts.append(_label(x, floor + 18, f"≤ {words}" if not decade else words))
    parts.append(_label((LEFT + WIDTH - RIGHT) / 2, floor + 36, "waited at most (logarithmic)"))
    for curve in drawn:
        ordered = sorted(curve.waits_s)
        points = " ".join(
            f"{across(wait_s):.1f},{floor - share * (floor - top):.1f}"
            for share, wait_s in _quantiles(ordered)
        )
        parts.append(
            f'<polyline class="curve {curve.colour}" points="{points}">'
            f"<title>{escape(curve.name)}</title></polyline>"
        )
    keys = _keys((each.name, each.colour) for each in drawn)
    return "\n".join([*parts, "</svg>", keys])


def _quantiles(ordered: Sequence[float]) -> Iterator[tuple[float, float]]:
    """(share, the most that so many waited), all of them where they are few."""
    count = len(ordered)
    ranks = sorted({round(each * (count - 1) / _POINTS_MAX) for each in range(_POINTS_MAX + 1)})
    yield 0.0, ordered[0]
    for rank in ranks:
        yield (rank + 1) / count, ordered[rank]


def _lanes(stretches: Iterable[Stretch]) -> dict[int, list[Stretch]]:
    lanes: dict[int, list[Stretch]] = defaultdict(list)
    for each in stretches:
        lanes[each.lane].append(each)
    return lanes


def _bars(
    lane: list[Stretch],
    colours: Mapping[str, str],
    begin_ns: int,
    scale: float,
    top: float,
    height: float,
) -> Iterator[str]:
    narrowest_ns = INNER / scale / PIECES_MAX
    for kind, model, from_ns, to_ns in _merged(lane, narrowest_ns):
        x, width = LEFT + (from_ns - begin_ns) * scale, max(0.5, (to_ns - from_ns) * scale)
        bar = f'x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"'
        words = f"{model} {kind.value}, {(from_ns - begin_ns) / SECOND_NS:.1f} s to "
        words += f"{(to_ns - begin_ns) / SECOND_NS:.1f} s"
        yield f'<rect class="{colours[model]}" {bar}><title>{escape(words)}</title></rect>'
        if kind is StretchKind.LOADING:
            yield f'<rect class="load" {bar} pointer-events="none"/>'


def _merged(
    lane: list[Stretch], narrowest_ns: float
) -> Iterator[tuple[StretchKind, str, int, int]]:
    """Neighbours of one kind and model whose gap would not be seen are one; of those that lie in
    one pixel together the longest stands for all. Two that follow one another are wider."""
    at: tuple[StretchKind, str, int, int] | None = None
    longest_ns = 0
    for each in sorted(lane, key=lambda each: each.begin_ns):
        length_ns = each.length_ns()
        end_ns = each.begin_ns + length_ns
        is_same = at is not None and at[:2] == (each.kind, each.model)
        if at is not None and is_same and each.begin_ns - at[3] < narrowest_ns:
            at = (*at[:3], max(at[3], end_ns))
            longest_ns = at[3] - at[2]
        elif at is not None and end_ns - at[2] < narrowest_ns:
            shown = at[:2] if longest_ns >= length_ns else (each.kind, each.model)
            at = (*shown, at[2], end_ns)
            longest_ns = max(longest_ns, length_ns)
        else:
            if at is not None:
                yield at
            at = (each.kind, each.model, each.begin_ns, end_ns)
            longest_ns = length_ns
    if at is not None:
        yield at


def _time_axis(span_s: float, floor: float) -> Iterator[str]:
    step_s = next((each for each in _STEPS_S if span_s / each <= 10), 0)
    while not step_s or span_s / step_s > 10:
        step_s += _DAY_S
    yield _rule(LEFT, floor, WIDTH - RIGHT, floor, "axis")
    for tick in range(int(span_s / step_s) + 1):
        x = LEFT + tick * step_s / span_s * INNER if span_s else LEFT
        yield _rule(x, floor, x, floor + 4, "axis")
        yield _label(x, floor + 17, _moment(tick * step_s))


def _moment(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    if minutes < 120:
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h" + (f" {minutes} min" if minutes else "")


def _svg(height: float, words: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(words)}">'


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _label(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
