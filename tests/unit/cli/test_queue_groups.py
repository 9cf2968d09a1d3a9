"""What waits, grouped, and the rows of the live view."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker_client.pb.broker.v1 import common_pb2
from brokerctl.fitting_table import Column
from brokerctl.queue_groups import Group, queue_of
from brokerctl.top_rows import (
    AGENT_COLUMNS,
    MODEL_COLUMNS,
    REQUEST_COLUMNS,
    Row,
    agent_rows,
    arranged,
    load_text,
    model_rows,
    request_rows,
    summary_lines,
)
from brokerctl.wait_reasons import UNKNOWN, WAITS, wait_of
from tests.unit.cli.states import busy


def test_what_waits_is_grouped_with_the_largest_group_first() -> None:
    queue = queue_of(busy())
    assert [each.request_id for each in queue.requests] == ["r3", "r4", "r5"]
    assert [(each.name, each.waiting) for each in queue.by_reason] == [("slot", 2), ("swap", 1)]
    assert [each.name for each in queue.by_priority] == ["2", "5", "8"]
    assert queue.by_agent[0] == Group(name="opus-1", waiting=2, running=1, oldest_ms=9_997.0)
    assert [(each.name, each.running) for each in queue.by_model] == [("tiny", 1), ("big", 1)]
    assert queue.left_out == 0


def test_what_the_broker_does_not_list_is_counted() -> None:
    many = replace(busy(), requests=busy().requests * 200, queued=1200)
    assert queue_of(many).left_out == 1200 - 600


def test_nothing_waits() -> None:
    queue = queue_of(replace(busy(), requests=(), queued=0))
    assert (queue.waiting, queue.requests, queue.by_agent) == (0, (), ())


def test_every_reason_to_wait_has_words() -> None:
    values = common_pb2.WaitReason.DESCRIPTOR.values
    names = {each.name.removeprefix("WAIT_REASON_").lower() for each in values}
    assert names - {"unspecified"} == set(WAITS)
    assert wait_of("of tomorrow") is UNKNOWN


def keys(column: int, *, is_descending: bool = False, pattern: str = "") -> list[str]:
    rows = request_rows(busy())
    found = arranged(rows, column=column, is_descending=is_descending, pattern=pattern)
    return [each.request_id for each in found]


def test_rows_are_sorted_by_what_they_mean_and_not_by_their_text() -> None:
    assert keys(4, is_descending=True) == ["r1", "r2", "r3", "r4", "r5"]
    assert keys(3) == ["r5", "r2", "r1", "r3", "r4"]  # equal ones by agent and id
    assert keys(6, is_descending=True)[0] == "r1"


def test_a_filter_looks_at_all_that_is_shown_case_aside() -> None:
    assert keys(0, pattern="BATCH") == ["r2", "r4"]
    assert keys(0, pattern="streaming on gpu0") == ["r1"]
    assert keys(0, pattern="nothing like it") == []


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (request_rows(busy()), REQUEST_COLUMNS),
        (agent_rows(busy()), AGENT_COLUMNS),
        (model_rows(busy()), MODEL_COLUMNS),
    ],
)
def test_every_row_has_a_cell_and_a_value_for_each_column(
    rows: list[Row], columns: tuple[Column, ...]
) -> None:
    assert rows
    for row in rows:
        assert len(row.cells) == len(row.sorted_by) == len(columns)


def test_an_agent_s_speed_and_age_are_those_of_its_requests() -> None:
    opus, batch = agent_rows(busy())
    assert opus.cells == ("opus-1", "opus", "2", "1", "52", "10.0 s")
    assert batch.cells[4] == ""


def test_the_summary_says_what_holds_work_up() -> None:
    down = replace(busy().backends[0], up=False)
    lines = summary_lines(replace(busy(), backends=(down,), paused=("everybody",), draining=True))
    assert lines[0].startswith("level 2: gpu_memory is at 83 %")
    assert lines[2:5] == [
        "down: gpu0",
        "paused: everybody",
        "the broker is leaving: new work is refused",
    ]
    assert lines[5] == "warning QueueSaturation: 85 % of the queue is full"
    assert load_text(busy()) == "load: queue 0 %, wait ?, gpu memory 83 %"


def test_top_says_who_has_loaded_a_model() -> None:
    status = busy()
    [backend] = [each for each in status.backends if each.models][:1]
    ours = backend.models[0]
    foreign = replace(ours, name="theirs", place=replace(ours.place, managed=False))
    rows = model_rows(replace(status, backends=(replace(backend, models=(ours, foreign)),)))
    column = [each.name for each in MODEL_COLUMNS].index("loaded by")
    assert [row.cells[column] for row in rows] == ["broker", "others"]
