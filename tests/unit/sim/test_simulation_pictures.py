"""Pictures of a played workload: what is drawn where, and that they stay small."""

from __future__ import annotations

import re
from random import Random

from broker.sim.recording import Stretch, StretchKind
from broker.sim.simulation_pictures import (
    INNER,
    LEFT,
    PIECES_MAX,
    WIDTH,
    Curve,
    colours_of,
    gantt,
    waits,
)
from broker.sim.workload_sites import Backend

SECOND_NS = 1_000_000_000
GPU = Backend(
    name="gpu<1>", slots=2, resident_max=1, memory_bytes=None, page_cache_bytes=0, slots_of={}
)


def stretch(kind: StretchKind, model: str, begin_s: float, end_s: float, lane: int = 0) -> Stretch:
    return Stretch(
        kind=kind,
        backend=GPU.name,
        model=model,
        lane=lane,
        begin_ns=int(begin_s * SECOND_NS),
        end_ns=int(end_s * SECOND_NS),
    )


def bars(svg: str, colour: str) -> list[tuple[float, float]]:
    """(x, width) of the bars of this class."""
    found = re.findall(rf'<rect class="{colour}" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', svg)
    return [(float(x), float(width)) for x, width in found]


def test_bars_lie_where_their_time_is() -> None:
    svg = gantt(
        GPU,
        [
            stretch(StretchKind.LOADING, "a", 0, 10),
            stretch(StretchKind.RESIDENT, "a", 10, 60),
            stretch(StretchKind.RUNNING, "a", 10, 20),
            stretch(StretchKind.RUNNING, "a", 20.01, 30),  # the gap would not be seen
            stretch(StretchKind.RUNNING, "b", 50, 100),
            Stretch(
                kind=StretchKind.RUNNING,
                backend="another",
                model="a",
                lane=0,
                begin_ns=0,
                end_ns=SECOND_NS,
            ),
        ],
        {"a": "c0", "b": "c1"},
        0,
        100 * SECOND_NS,
    )
    tenth = INNER / 10
    assert bars(svg, "c0") == [(LEFT, tenth), (LEFT + tenth, 5 * tenth), (LEFT + tenth, 2 * tenth)]
    assert bars(svg, "c1") == [(LEFT + 5 * tenth, 5 * tenth)]
    assert bars(svg, "load") == [(LEFT, tenth)]
    assert "gpu&lt;1&gt;" in svg
    assert "gpu<1>" not in svg


def test_a_picture_of_very_much_is_small() -> None:
    chance = Random(1)
    lane = [
        stretch(StretchKind.RUNNING, chance.choice("abc"), at, at + chance.random())
        for at in range(100_000)
    ]
    colours = colours_of("abc")
    svg = gantt(GPU, lane, colours, 0, 100_000 * SECOND_NS)
    drawn = [bar for colour in colours.values() for bar in bars(svg, colour)]
    assert PIECES_MAX / 4 < len(drawn) <= 2 * PIECES_MAX + 1
    assert all(x >= LEFT and x + width <= WIDTH for x, width in drawn)
    # Nothing is lost at the end.
    assert max(x + width for x, width in drawn) > WIDTH - 30


def test_a_curve_goes_from_none_to_all() -> None:
    svg = waits([Curve(name="p<1>", colour="c0", waits_s=[0.0, 0.05, 1.0, 10.0])], "Waits")
    points = re.search(r'points="([^"]*)"', svg)
    assert points is not None
    places = [tuple(map(float, each.split(","))) for each in points[1].split()]
    across = [x for x, _ in places]
    assert across == sorted(across)
    # From 0.1 s on the axis is logarithmic: what waited less stands at its beginning.
    assert [round((x - LEFT) / INNER, 3) for x in across] == [0.0, 0.0, 0.0, 0.5, 1.0]
    floor, top = places[0][1], places[-1][1]
    assert [round((floor - y) / (floor - top), 3) for _, y in places] == [0, 0.25, 0.5, 0.75, 1]
    assert "p&lt;1&gt;" in svg


def test_nobody_and_no_time_are_pictures_too() -> None:
    assert waits([Curve(name="none", colour="c0", waits_s=[])], "Waits").count("<polyline") == 0
    assert gantt(GPU, [], {}, 0, 0).startswith("<svg")
    assert gantt(GPU, [], {}, 0, 400 * 86_400 * SECOND_NS).count("<text") < 20
