"""docs/failures.md: every row names tests that exist, every kind of fault has a row."""

from __future__ import annotations

import re
from typing import Final

from broker.sim.world_faults import FaultKind
from tests.tidy.sources import ROOT

PAGE: Final = ROOT / "docs" / "failures.md"
# Rows without a kind of their own in the worlds: to these it is a server that is away.
NOT_IN_WORLDS: Final = frozenset({"hang"})
TEST: Final = re.compile(r"`(test_\w+)`")
# The row that tells of a kind, by its first words; several kinds may be one fault to a person.
ROW_OF: Final = {
    FaultKind.LISTS_LATE: "half-open",
    FaultKind.LOADS_FAIL: "die mid-load",
    FaultKind.LOADS_HANG: "hang in a load",
    FaultKind.LOADS_OOM: "die mid-load",
    FaultKind.DIE_MID_LOAD: "die mid-load",
    FaultKind.SERVER_STOPS: "refused",
    FaultKind.REFUSED: "refused",
    FaultKind.RUNNER_DIES: "die mid-stream",
    FaultKind.RUNNER_OOM: "die mid-stream",
    FaultKind.RUNNER_FREEZES: "freeze",
    FaultKind.STRANGER_LOADS: "evicted",
    FaultKind.STRANGERS: "evicted",
    FaultKind.EVICTED: "evicted",
    FaultKind.LISTS_GONE: "lie",
    FaultKind.LISTS_NOT: "lie",
    FaultKind.SLOW: "slow",
    FaultKind.CUT: "cut",
    FaultKind.RESET: "reset",
    FaultKind.HALF_OPEN: "half-open",
    FaultKind.GARBAGE: "garbage",
    FaultKind.OVERSIZE: "oversize",
    FaultKind.BAD_UTF8: "bad UTF-8",
    FaultKind.ERROR_LINE: "error line",
    FaultKind.NO_TERMINATOR: "no terminator",
    FaultKind.WRONG_DIGEST: "wrong digest",
    FaultKind.BUSY_STORM: "busy storm",
    FaultKind.DELETED: "deleted",
    FaultKind.CLOCK_JUMP: "clock jump",
    FaultKind.NO_NAMES: "no names",
    FaultKind.NO_DESCRIPTORS: "no descriptors",
    FaultKind.BROKER_STOPPED: "broker stopped",
}


def rows() -> dict[str, list[str]]:
    """The cells of each row of the table of faults, by what comes before the colon of the first."""
    table = PAGE.read_text().partition("| fault |")[2].partition("\n\n")[0]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {cells[0].partition(":")[0]: cells for cells in found[2:]}


def names_of_tests() -> set[str]:
    found = set[str]()
    for path in (ROOT / "tests" / "e2e").glob("test_*.py"):
        found |= set(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))
    return found


def test_every_kind_of_fault_has_a_row() -> None:
    assert set(ROW_OF) == set(FaultKind)
    assert set(ROW_OF.values()) | NOT_IN_WORLDS == set(rows())


def test_every_row_is_full_and_names_tests_that_exist() -> None:
    there = names_of_tests()
    for name, cells in rows().items():
        assert len(cells) == 5, name
        assert all(cells), name
        named = TEST.findall(cells[-1])
        assert named, name
        assert set(named) <= there, name
