"""Level, load, GPUs, host, sensors and alerts on the screen, and what the doctor finds in them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from broker_client import LevelStatus, PreemptionStatus, PreloadStatus, SensorStatus, Status
from brokerctl.clock_findings import skew_finding
from brokerctl.finding import Severity
from brokerctl.level import set_text
from brokerctl.level_tables import level_lines, part_amount_text
from brokerctl.machine_findings import machine_findings, sensor_findings
from brokerctl.status_tables import status_view
from brokerctl.work_tables import preempted_text, preloads_line, standing_text
from tests.unit.cli.states import GB, busy

WIDTHS = (80, 160)


def screen(width: int, status: Status | None = None) -> list[str]:
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(status_view(status or busy(), "here:1"))
    return [each.rstrip() for each in capture.get().splitlines()]


def line_with(lines: list[str], text: str) -> str:
    [found] = [each for each in lines if text in each]
    return found


@pytest.mark.parametrize("width", WIDTHS)
def test_the_screen_fits_and_has_everything_that_matters(width: int) -> None:
    lines = screen(width)
    assert all(len(each) <= width for each in lines)
    text = " ".join(" ".join(lines).split())
    for said in (
        "level 2 for 12.0 s, 1 before",
        "gpu_memory is at 83 %: 13.3 GB of 16.0 GB are used by others",
        "warning QueueSaturation for 1 min 1 s: 85 % of the queue is full",
        "-> let agents send less",
        "host: 8 cores 50 % busy (25 % by models and the broker); memory: 6.0 GB of 16.0 GB",
        "swap: 1.0 GB of 2.0 GB in use, 5.0 KB/s come back",
        "sensor gpu is failing, last heard 2.5 s ago: GPU 1 is lost",
        "wait p50 120 ms, p99 4.0 s; to the first token p50 300 ms, p99 5.0 s",
        "of the last 40 started; 82 % of the last 50 as they were told (80 % are to)",
        "2 running at 52 tokens/s in all",
    ):
        assert said in text, said


def test_parts_of_the_load_have_value_limit_and_share_and_the_unknown_says_why() -> None:
    lines = screen(160)
    assert line_with(lines, "gpu memory ").split()[2:] == [
        *("83", "%", "13.3", "GB", "16.0", "GB"),
        *("others", "use", "it"),
    ]
    assert line_with(lines, "too few requests").split()[:2] == ["wait", "?"]


def test_a_gpu_in_one_row() -> None:
    row = line_with(screen(160), "NVIDIA H200")
    for said in ("36.0 GB, 25 %", "144.0 GB", "55 %", "83 °C", "650 of 700 W", "power cap"):
        assert said in row
    assert "train 13.0 GB" in row
    assert "ollama" not in row


def test_a_gpu_whose_processes_nobody_may_ask_for_does_not_look_as_if_it_had_none() -> None:
    status = busy()
    [gpu] = status.gpus
    untold = replace(status, gpus=(replace(gpu, processes=None),))
    empty = replace(status, gpus=(replace(gpu, processes=()),))
    assert line_with(screen(160, untold), "NVIDIA H200").rstrip(" │┃|").endswith("?")
    assert "?" not in line_with(screen(160, empty), "NVIDIA H200")
    for each in (untold, empty):
        assert not [
            found for found in machine_findings(each) if "used by others, too" in found.text
        ]


def test_residents_say_when_they_expire_and_how_much_lies_on_the_gpu() -> None:
    row = line_with(screen(160), "tiny:latest")
    assert "2 of 2" in row
    assert "4.0 GB, 75 % on GPU" in row
    assert "in 9 min 0 s" in row


def test_requests_say_what_they_wait_for_or_how_fast_they_run() -> None:
    lines = screen(160)
    assert "streaming on gpu0, 30 tokens, 52/s" in line_with(lines, "r1 ")
    assert "tiny for big" in line_with(lines, "r2 ")
    assert "waits for a free slot of tiny on gpu0" in line_with(lines, "r3 ")
    assert "waits for another model to make room first" in line_with(lines, "r4 ")


def test_the_brokers_own_words_say_what_a_request_waits_for() -> None:
    words = "big, which is being loaded on gpu0"
    waiting = replace(busy().requests[-1], wait_reason="loading", wait_detail=words)
    assert standing_text(waiting) == f"waits for {words}"


def level(**changes: object) -> LevelStatus:
    return replace(busy().level_status, **changes)  # type: ignore[arg-type]


def test_a_level_set_by_hand_says_how_it_ends() -> None:
    by_hand = level(automatic=False, until_ms=60_000)
    said = "held for another 1 min 0 s whatever the load; `brokerctl level auto` ends that"
    assert said in str(level_lines(by_hand)[0])
    by_configuration = level(automatic=False, level="normal")
    assert str(level_lines(by_configuration)[0]).endswith("; held whatever the load")
    assert "automatic = false" in set_text(by_configuration, is_left_to_load=True)
    assert set_text(by_hand).startswith("level 2 for 1 min 0 s: answers are cut shorter, small")
    assert set_text(level(automatic=False)).startswith("level 2 until `brokerctl level auto`: ")
    assert set_text(level()).startswith("the level follows the load again; it is 2: ")


@pytest.mark.parametrize(
    ("name", "amount", "text"),
    [
        *(("queue", 3.0, "3"), ("wait", 1500.0, "1.5 s"), ("cpu", 0.25, "25 %")),
        *(("host_memory", 2.0 * GB, "2.0 GB"), ("gpu_memory", 0.0, "0 B")),
    ],
)
def test_amounts_in_their_units(name: str, amount: float, text: str) -> None:
    assert part_amount_text(name, amount) == text


def test_the_doctor_names_each_thing_that_is_short_with_a_next_step() -> None:
    findings = [each for each in machine_findings(busy()) if each.severity is not Severity.GOOD]
    assert all(each.next_step for each in findings)
    assert [each.text.split(":")[0] for each in findings] == [
        "the broker works at level 2",
        "gpu memory is at 83 %",
        "alert QueueSaturation fires for 1 min 1 s",
        "this host swaps",
        "GPU 0 (NVIDIA H200) is slowed down",
        "GPU 0 (NVIDIA H200) is used by others, too",
        "only 75 % of tiny",
        "sensor gpu is failing",
    ]


def test_only_critical_keeps_work_from_being_done() -> None:
    critical = replace(busy(), level="critical")
    assert machine_findings(critical)[0].severity is Severity.BAD
    by_hand = replace(busy(), level_status=level(automatic=False))
    assert machine_findings(by_hand)[0].severity is Severity.ODD


@pytest.mark.parametrize(
    ("state", "detail", "severity"),
    [
        ("absent", "there is no NVML library here", Severity.GOOD),
        ("absent", "this user may not ask the NVIDIA driver", Severity.ODD),
        ("absent", "[Errno 13] Permission denied: '/proc/stat'", Severity.ODD),
        ("stale", "it has not answered for 12 s", Severity.ODD),
    ],
)
def test_a_sensor_that_may_not_look_is_told_apart_from_nothing_to_see(
    state: str, detail: str, severity: Severity
) -> None:
    sensor = SensorStatus(name="gpu", state=state, detail=detail, age_ms=None)
    [finding] = sensor_findings(sensor)
    assert finding.severity is severity
    assert detail in finding.text


@pytest.mark.parametrize(
    ("told_s", "words"),
    [
        (100.0, "agree"),
        (103.0, "agree"),
        (97.0, "3.0 s behind"),
        (90.0, "10.0 s behind"),
        (111.0, "10.0 s ahead of"),
    ],
)
def test_clocks_are_compared_as_closely_as_two_readings_allow(told_s: float, words: str) -> None:
    assert words in skew_finding(100.0, told_s, 101.0).text


@pytest.mark.parametrize(
    ("hit", "held", "words"),
    [
        (
            40.0,
            "",
            "9 models loaded ahead of need: 6 used, 2 left unused; of the loads that were "
            "needed 40 % were there before",
        ),
        (
            None,
            "the level is 1",
            "9 models loaded ahead of need: 6 used, 2 left unused; none now, as the level is 1",
        ),
    ],
)
def test_what_was_loaded_ahead_of_need_is_told_with_what_came_of_it(
    hit: float | None, held: str, words: str
) -> None:
    status = PreloadStatus(
        enabled=not held, held_because=held, made=9, used=6, wasted=2, hit_percent=hit
    )
    assert preloads_line(status).plain == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, ""), (2, "; 2 calls set aside for urgent work, 12.5 s of slots lost")],
)
def test_what_was_set_aside_for_urgent_work_is_told_with_its_cost(count: int, words: str) -> None:
    assert preempted_text(PreemptionStatus(count=count, wasted_s=12.5, left_s=1.0)) == words
