"""The life of a model on a backend, and what a residency says of itself."""

from __future__ import annotations

import pytest

from broker.core.residency import RESIDENCY, Residency, ResidencyState, ResidencyTrigger


def residency(
    state: ResidencyState = ResidencyState.RESIDENT,
    *,
    running: int = 0,
    slots: int = 2,
    num_ctx: int = 0,
    num_ctx_sent: int | None = None,
    changed_ns: int = 0,
) -> Residency:
    return Residency(
        runner="blob",
        model="m:latest",
        state=state,
        managed=True,
        slots=slots,
        num_ctx_sent=num_ctx_sent,
        num_ctx=num_ctx,
        running=running,
        changed_ns=changed_ns,
    )


def test_the_way_out_of_memory_leads_through_a_gate_and_a_proof() -> None:
    """Only what vanished by itself, or never arrived, is absent without both."""
    into_absent = {
        (before, trigger)
        for (before, trigger), after in RESIDENCY.table.items()
        if after is ResidencyState.ABSENT
    }
    assert into_absent == {
        (ResidencyState.LOADING, ResidencyTrigger.LOAD_FAILED),
        (ResidencyState.RESIDENT, ResidencyTrigger.VANISHED),
        (ResidencyState.DRAINING, ResidencyTrigger.VANISHED),
        (ResidencyState.UNLOADING, ResidencyTrigger.GONE),
        (ResidencyState.FREEING, ResidencyTrigger.GONE),
    }


@pytest.mark.parametrize("state", ResidencyState)
def test_only_a_resident_model_has_free_slots(state: ResidencyState) -> None:
    assert residency(state).has_free_slot is (state is ResidencyState.RESIDENT)
    assert not residency(state, running=2).has_free_slot


@pytest.mark.parametrize(
    ("num_ctx", "num_ctx_sent", "needed", "fits"),
    [
        (0, None, 0, True),  # the usual size fits whatever it is
        (0, None, 1, False),  # unknown is not enough for a stated need
        (4096, None, 4096, True),
        (4096, None, 4097, False),
        (8192, 8192, 8192, True),
    ],
)
def test_work_fits_a_context_at_least_as_large(
    num_ctx: int, num_ctx_sent: int | None, needed: int, fits: bool
) -> None:
    assert residency(num_ctx=num_ctx, num_ctx_sent=num_ctx_sent).fits(needed) is fits


@pytest.mark.parametrize(
    ("state", "running", "asked_ns", "vanished"),
    [
        (ResidencyState.RESIDENT, 0, 11, True),
        (ResidencyState.DRAINING, 0, 11, True),
        (ResidencyState.RESIDENT, 1, 11, False),  # its requests will tell
        (ResidencyState.LOADING, 0, 11, False),  # hidden while it loads
        (ResidencyState.UNLOADING, 0, 11, False),  # the unload itself brings the proof
        (ResidencyState.RESIDENT, 0, 10, False),  # asked no later than it changed: old news
        (ResidencyState.RESIDENT, 0, 9, False),
    ],
)
def test_absence_from_a_list_counts_only_where_it_is_news(
    state: ResidencyState, running: int, asked_ns: int, vanished: bool
) -> None:
    subject = residency(state, running=running, changed_ns=10)
    assert subject.may_have_vanished(asked_ns) is vanished


def test_a_move_notes_its_time() -> None:
    subject = residency()
    subject.move(ResidencyTrigger.GATE, 42)
    assert (subject.state, subject.changed_ns) == (ResidencyState.DRAINING, 42)
