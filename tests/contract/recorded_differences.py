"""Where a play of several requests differs from its recording.

Rules: a difference is a line for people; no difference is an empty list. Moments are compared by
their order only, and only where the recording held them apart.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from itertools import combinations
from typing import Any

from broker.sim.ollama_machine import SECOND_NS
from tests.contract.recorded_play import Listing, Outcome, Player

# Events this close to one another in the recording came in either order by chance.
APART_MS = 60.0
# What reading a long prompt takes at least; one that is known takes a tenth of it.
LONG_NS = SECOND_NS
# Expiry dates are compared to the second that ps was asked in.
EXPIRY_TOLERANCE_S = 1.6


def last_document(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {}
    return document if isinstance(document, dict) else {}


def error_of(text: str) -> str | None:
    """The text of an error, with the numbers in it masked: ports, sizes, token counts."""
    error = last_document(text).get("error")
    if isinstance(error, dict):
        error = error["message"]
    return None if error is None else re.sub(r"\d+", "#", error)


# Which of the two an interrupted request gets before its first token is a race (OLLAMA.md §2).
EITHER = re.compile(r"an error was encountered while running the model|model runner has unexpect")


def compare_outcome(wanted: dict[str, Any], outcome: Outcome) -> list[str]:
    label = wanted["label"]
    differences = []
    if wanted["status"] != outcome.status:
        differences.append(f"{label}: status {wanted['status']} became {outcome.status}")
    wanted_error, error = error_of(wanted["last"]), error_of(outcome.last)
    early = wanted["status"] == 500 and wanted_error and EITHER.match(wanted_error)
    if wanted_error != error and not (early and error and EITHER.match(error)):
        differences.append(f"{label}: error {wanted_error!r} became {error!r}")
    done, actual = last_document(wanted["last"]), last_document(outcome.last)
    ours = "done_reason" in done
    for key in ("done", "done_reason", "prompt_eval_count", "eval_count") if ours else ():
        if done.get(key) != actual.get(key):
            differences.append(f"{label}: {key} {done.get(key)} became {actual.get(key)}")
    read_ns, actual_ns = (d.get("prompt_eval_duration", 0) for d in (done, actual))
    if (read_ns > LONG_NS) != (actual_ns > LONG_NS):
        differences.append(f"{label}: a prompt read in {read_ns} ns became {actual_ns} ns")
    return differences


def compare_starts(wanted: dict[str, Any], outcome: Outcome, player: Player) -> list[str]:
    """As many runners had been started when a request was over, give or take the same moment."""
    over_ms, starts = outcome.over_at_ms, wanted.get("runner_starts")
    if starts is None or over_ms is None:
        return []
    least, most = player.starts_by(over_ms - APART_MS), player.starts_by(over_ms + APART_MS)
    if least <= starts <= most:
        return []
    return [f"{wanted['label']}: {starts} starts became {least} to {most}"]


Event = tuple[float, float]


def compare_order(recorded: list[dict[str, Any]], outcomes: list[Outcome]) -> list[str]:
    """Any two heads or ends that lay apart came in the same order in the play."""
    events: dict[str, Event] = {}
    for place, (wanted, outcome) in enumerate(zip(recorded, outcomes, strict=True)):
        for kind in ("head_at_ms", "end_at_ms"):
            actual = getattr(outcome, kind)
            if wanted.get(kind) is not None and actual is not None and wanted["status"]:
                sent_ms = wanted["sent_at_ms"]
                events[f"{place} {wanted['label']} {kind}"] = (
                    sent_ms + wanted[kind],
                    outcome.sent_at_ms + actual,
                )
    return [
        f"{one} before {other}: {a} and {b} became {x:.0f} and {y:.0f}"
        for (one, (a, x)), (other, (b, y)) in combinations(events.items(), 2)
        if abs(a - b) > APART_MS and (a < b) != (x < y)
    ]


def compare_ps(wanted: dict[str, Any], listing: Listing) -> list[str]:
    where = f"ps at {wanted.get('at_ms', wanted.get('after'))}"
    hung_ms = wanted.get("answered_after_ms", 0.0)
    if abs(hung_ms - listing.answered_after_ms) > max(100.0, 0.05 * hung_ms):
        return [f"{where}: hung {hung_ms} became {listing.answered_after_ms}"]
    if hung_ms > 1000.0:
        # Ollama lists what was loaded when it was asked, the model what is when it answers.
        return []
    entries = [e if isinstance(e, dict) else {"name": e} for e in wanted["resident"]]
    names = sorted(entry["name"] for entry in entries)
    actual = sorted(row.name for row in listing.rows)
    if names != actual:
        return [f"{where}: {names} became {actual}"]
    differences = []
    rows = sorted(listing.rows, key=lambda row: (row.name, row.expires_at_ns))
    dated = sorted(entries, key=lambda entry: (entry["name"], entry.get("expires_at", "")))
    for entry, row in zip(dated, rows, strict=True):
        if "context_length" in entry and entry["context_length"] != row.context_length:
            differences.append(f"{where}: {entry} became {row.context_length}")
        if "expires_at" in entry and "date" in wanted:
            left_s = seconds_left(entry["expires_at"], wanted["date"])
            actual_s = (row.expires_at_ns - listing.at_ns) / SECOND_NS
            if abs(left_s - actual_s) > EXPIRY_TOLERANCE_S:
                differences.append(f"{where}: expires in {left_s} s became {actual_s}")
    return differences


def seconds_left(expires_at: str, date: str) -> float:
    """From the moment of ps to the expiry that it showed; the date may lack its day."""
    expires = datetime.fromisoformat(re.sub(r"\.\d+", "", expires_at))
    asked = date if "T" in date else f"{expires_at[:10]}T{date}Z"
    return (expires - datetime.fromisoformat(re.sub(r"\.\d+", "", asked))).total_seconds()
