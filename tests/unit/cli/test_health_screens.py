"""What ails the backends, on the screens of status, top and the doctor."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from broker_client import BackendStatus, BreakerStatus, SickModel
from brokerctl.fitting_screen import FittingScreen
from brokerctl.health_findings import health_findings
from brokerctl.health_lines import ailment_texts, backend_state
from brokerctl.status_tables import status_view
from brokerctl.top_rows import AILMENTS_SHOWN, summary_lines
from tests.unit.cli.states import busy
from tests.unit.cli.test_findings import BACKEND, HEALTHY, found

OPEN = BreakerStatus(
    model="m", state="open", failures=5, calls=7, until_ms=12_000, why="5 of 7 calls failed"
)
SICK = SickModel(model="big", retry_ms=30_000, why="out of memory")
ILL = replace(
    BACKEND,
    health="suspect",
    evidence="m on it sent nothing for 9.0 s",
    draining=True,
    running=1,
    breakers=(OPEN, replace(OPEN, model="n", state="closed", until_ms=None)),
    sick_models=(SICK,),
    retries=3,
    weight=2.5,
    tags=("gpu", "big"),
)
BREAKER = "breaker of m on gpu0 is open, a probe in 12.0 s: 5 of 7 calls failed"
LOAD = "big cannot be loaded on gpu0, tried again in 30.0 s: out of memory"


def printed(backends: tuple[BackendStatus, ...], width: int = 200) -> list[str]:
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(status_view(replace(busy(), backends=backends), "here:1"))
    return [each.rstrip() for each in capture.get().splitlines()]


def test_a_backend_that_is_well_says_no_more_than_up() -> None:
    assert backend_state(BACKEND).plain == "up"
    assert backend_state(replace(BACKEND, health="")).plain == "up"  # an older broker
    assert ailment_texts((BACKEND,)) == []
    titles = next(each for each in printed((BACKEND,)) if each.startswith("backend"))
    assert titles.split() == ["backend", "state", "loads", "failed", "version", "url", "kind"]


def test_what_keeps_work_from_a_backend() -> None:
    said = "suspect: m on it sent nothing for 9.0 s, draining: no new work"
    assert backend_state(ILL).plain == said
    down = replace(ILL, up=False, problem="refused")
    assert backend_state(down).plain == "down: refused"
    assert backend_state(replace(down, down_ms=61_000)).plain == "down for 1 min 1 s: refused"


def test_how_many_are_down_is_said_before_all_else() -> None:
    down = replace(BACKEND, up=False)
    lines = printed((BACKEND, replace(down, name="gpu1"), replace(down, name="gpu2")))
    assert lines[1] == "2 of 3 backends do not answer: gpu1, gpu2"
    assert printed((down,))[1] == "1 of 1 backend does not answer: gpu0"
    assert not any("not answer" in each for each in printed((BACKEND,)))


def test_what_a_backend_holds_that_is_down_is_not_known() -> None:
    gone = replace(BACKEND, name="gpu1", up=False)
    [row] = [each for each in printed((BACKEND, gone)) if each.startswith("tiny:latest  gpu1")]
    assert "not known: gpu1 is down" in row
    assert "never" not in row


def test_equal_models_of_several_backends_are_told_apart_on_a_narrow_screen() -> None:
    leaving = replace(BACKEND, name="gpu1", draining=True)
    lines = printed((BACKEND, leaving), width=60)
    at = next(i for i, each in enumerate(lines) if each.startswith("model "))
    assert lines[at].split()[:4] == ["model", "backend", "state", "runs"]
    rows = [each.split()[:3] for each in lines[at + 1 :] if each.startswith("tiny:latest")]
    assert rows == [["tiny:latest", "gpu0", "resident"], ["tiny:latest", "gpu1", "resident,"]]


def test_status_names_breakers_and_models_that_cannot_be_loaded() -> None:
    lines = printed((ILL, replace(BACKEND, name="gpu1")))
    assert BREAKER in lines
    assert LOAD in lines
    titles = next(each for each in lines if each.startswith("backend"))
    assert titles.split()[4:] == ["retries", "weight", "version", "url", "kind", "tags"]
    rows = [each.split() for each in lines if "http://127.0.0.1:11434" in each]
    assert [each[-5:] for each in rows] == [
        ["0.31.1", BACKEND.url, "ollama", "gpu,", "big"],
        ["0", "1", "0.31.1", BACKEND.url, "ollama"],
    ]


def test_a_breaker_that_lets_a_probe_pass() -> None:
    half = replace(ILL, breakers=(replace(OPEN, state="half_open", until_ms=None, why=""),))
    assert "breaker of m on gpu0 lets one probe pass" in ailment_texts((half,))
    odd = replace(ILL, breakers=(replace(OPEN, until_ms=None),))
    assert "breaker of m on gpu0 is open: 5 of 7 calls failed" in ailment_texts((odd,))


def test_top_says_the_same_in_few_lines() -> None:
    down = replace(BACKEND, name="gpu1", up=False)
    assert ailment_texts((ILL, down)) == [
        "down: gpu1",
        "gpu0 is suspect: m on it sent nothing for 9.0 s",
        "draining: gpu0",
        BREAKER,
        LOAD,
    ]
    lines = summary_lines(replace(busy(), backends=(ILL, down)))
    assert BREAKER in lines
    assert LOAD not in lines
    assert "and 1 more such; `brokerctl status` names all" in lines
    assert AILMENTS_SHOWN == 4


def test_the_doctor_has_a_next_step_for_each() -> None:
    texts = [each.text for each in found(replace(HEALTHY, backends=(ILL,)))]
    assert BREAKER in texts
    assert LOAD in texts
    assert any("is suspect: m on it sent nothing" in each for each in texts)
    assert any("is being drained" in each and "1 request running" in each for each in texts)


@pytest.mark.parametrize(
    ("health", "severity", "step"),
    [("wedged", "bad", "restart_command"), ("restarting", "odd", "by hand")],
)
def test_a_backend_that_hangs(health: str, severity: str, step: str) -> None:
    ill = replace(BACKEND, health=health, evidence="/api/ps does not answer", restarts=2)
    [finding] = health_findings(ill)
    assert finding.severity.value == severity
    assert "/api/ps does not answer" in finding.text
    assert step in finding.next_step


@pytest.mark.parametrize("reason", ["breaker", "sick", "healing", "backend_drains"])
def test_who_waits_for_that(reason: str) -> None:
    waits = replace(busy().requests[-1], wait_reason=reason)
    texts = [each.text for each in found(replace(HEALTHY, requests=(waits,)))]
    assert any(each.startswith("1 request waits for a ") for each in texts)


def screen(height: int, lines: int) -> list[str]:
    console = Console(width=60, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        view = "\n".join(f"line {i}" for i in range(lines))
        console.print(FittingScreen(view), height=height, end="")
    return capture.get().rstrip("\n").splitlines()


def test_what_has_no_room_on_the_screen_is_counted() -> None:
    assert screen(4, 4) == ["line 0", "line 1", "line 2", "line 3"]
    lines = screen(4, 9)
    assert lines[:3] == ["line 0", "line 1", "line 2"]
    assert lines[3].startswith("(6 more lines: a taller terminal")
    assert len(lines) == 4


def test_a_server_that_is_busy_says_nothing_of_its_models() -> None:
    busy_there = replace(SICK, why="server busy, please try again.  maximum pending requests")
    steps = {
        each.why: health_findings(replace(BACKEND, sick_models=(each,)))[-1].next_step
        for each in (SICK, busy_there)
    }
    assert "num_ctx" in steps[SICK.why]
    assert "num_ctx" not in steps[busy_there.why]
    assert "OLLAMA_MAX_QUEUE" in steps[busy_there.why]


def test_what_a_server_said_stays_on_its_line() -> None:
    rude = replace(BACKEND, up=False, problem="no\n\x1b[2Jroute", version="1\n2", models=())
    lines = printed((rude,))
    assert any("no \\x1b[2Jroute" in each and "1 2" in each for each in lines)
