"""What `brokerctl doctor` finds in a broker's state: each finding with its next step. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from broker_client import BackendStatus, BrokerError, Model, Status, Unreachable, __version__
from brokerctl.backend_steps import KEEPS_MODELS, down_text, get_model_step, start_step
from brokerctl.explanation import sentence_of, unreachable_words
from brokerctl.figures import counted
from brokerctl.finding import Finding, bad, good, odd
from brokerctl.health_findings import health_findings, standing_finding
from brokerctl.health_lines import is_well
from brokerctl.machine_findings import machine_findings
from brokerctl.model_choice import completion_models
from brokerctl.model_list_lines import model_list_findings

# Waits that end when something above is mended.
WAITS_FOR_BACKENDS: Final = {
    "backend_down": "for a backend that is down",
    "breaker": "for a circuit breaker to close",
    "sick": "for a model that could not be loaded",
    "healing": "for a model or a server to be cured",
    "backend_drains": "for a backend that is being drained",
}


def unreachable_finding(error: BrokerError, address: str) -> Finding:
    """No broker, or one that does not answer as it should."""
    if isinstance(error, Unreachable):
        text, step = unreachable_words(error, address)
        return bad(text, f"{step}, or say where the broker is with --address or BROKER_ADDRESS")
    return bad(
        f"the broker at {address} does not answer as it should: {sentence_of(error, address)}",
        "see the broker's log, or say where another is with --address or BROKER_ADDRESS",
    )


def examine(status: Status, models: Sequence[Model], address: str) -> list[Finding]:
    """All findings, in the order in which one would look."""
    findings = broker_findings(status, address)
    for backend in status.backends:
        findings.extend(backend_findings(backend))
    if any(each.up for each in status.backends):
        findings.extend(model_findings(models, status.backends))
    findings.extend(model_list_findings(status.model_list))
    findings.extend(machine_findings(status))
    findings.extend(queue_findings(status))
    return findings


def broker_findings(status: Status, address: str) -> list[Finding]:
    """The broker itself."""
    findings = [good(f"a broker answers at {address}, version {status.version}")]
    if status.version != __version__:
        findings.append(
            odd(
                f"this brokerctl is of version {__version__}, the broker of {status.version}",
                "install the same version of both",
            )
        )
    if status.draining:
        findings.append(
            bad("the broker is leaving and refuses new work", "start it again once it has stopped")
        )
    if not status.backends:
        findings.append(
            bad("the broker has no backend", "add [[backends]] to its configuration, restart it")
        )
    return findings


def backend_findings(backend: BackendStatus) -> list[Finding]:
    """One server, its loads, and what occupies it."""
    if not backend.up:
        away = bad(down_text(backend), start_step(backend))
        # One that takes connections and says nothing is there: to start it again would not help.
        return [away] if is_well(backend) else [standing_finding(backend), away]
    findings = health_findings(backend)
    if backend.loads_failed:
        findings.append(
            odd(
                f"{counted(backend.loads_failed, 'load')} of {backend.loads} failed on "
                f"{backend.name}",
                "the broker's log says which model and why; where it does not fit, a smaller "
                "num_ctx or another host helps",
            )
        )
    for each in backend.models:
        if backend.kind == KEEPS_MODELS:
            continue  # nobody loads or unloads any
        if each.place.state == "resident" and not each.place.managed:
            findings.append(
                odd(
                    f"{each.name} on {backend.name} was loaded by others, so the broker does not "
                    "unload it",
                    f"let its users come through the broker, or free its memory with "
                    f"`ollama stop {each.name}`; exclusive = true under [[backends]] says that the "
                    "whole server is the broker's",
                )
            )
    return findings


def model_findings(models: Sequence[Model], backends: Sequence[BackendStatus]) -> list[Finding]:
    """The catalogue over all backends that answer."""
    if not models:
        return [bad("no backend lists any model", get_model_step(backends))]
    able = completion_models(models)
    if not able:
        return [
            odd(
                f"{counted(len(models), 'model')}, but none that generates text",
                get_model_step(backends),
            )
        ]
    return [good(f"{counted(len(models), 'model')}{abilities_text(able)}")]


def abilities_text(able: Sequence[Model]) -> str:
    """How many of the models generate text, and of how many that is not told."""
    untold = sum(1 for each in able if not each.capabilities)
    text = f", {len(able) - untold} of them for generating text" if untold < len(able) else ""
    if not untold:
        return text
    can = "it can do, so it may" if untold == 1 else "they can do, so they may"
    return f"{text}; of {untold} no backend tells what {can} generate text"


def admission_findings(status: Status) -> list[Finding]:
    """Who is held back on purpose, and which compartments are full while requests wait for them."""
    findings = []
    if status.paused:
        waiting = sum(1 for each in status.requests if each.wait_reason == "paused")
        findings.append(
            odd(
                f"operators have paused {', '.join(status.paused)}; "
                f"{waiting_text(waiting)} for that to end",
                "`brokerctl resume` with the same agent, --type or --all ends it",
            )
        )
    held = Counter(each.compartment for each in status.requests if each.wait_reason == "bulkhead")
    for each in status.bulkheads:
        if each.running >= each.running_max and held[each.compartment]:
            findings.append(
                odd(
                    f"bulkhead {each.compartment} is full: {each.running} of at most "
                    f"{each.running_max} run, {waiting_text(held[each.compartment])} for it",
                    f"that is its purpose; if the backends have slots to spare, raise "
                    f"{each.compartment} under [bulkheads] and `brokerctl reload`",
                )
            )
    return findings


def waiting_text(count: int) -> str:
    """ "1 request waits", "2 requests wait"."""
    return f"{counted(count, 'request')} {'waits' if count == 1 else 'wait'}"


def queue_findings(status: Status) -> list[Finding]:
    """Who waits, and for what."""
    findings = [
        good(f"{counted(status.queued, 'request')} waiting, {status.running} running")
        if status.queued < status.queued_max
        else bad(
            f"the queue is full: {status.queued} requests wait"
            + (f", and {status.standing} stand in the waiting room" if status.standing else ""),
            "let agents send less, or raise limits.queued_max and the backends' slots",
        )
    ]
    findings += admission_findings(status)
    waits = Counter(each.wait_reason for each in status.requests)
    if waits["no_room"]:
        findings.append(
            odd(
                f"{waiting_text(waits['no_room'])} for room that models loaded by others hold",
                "see those models above; or set memory_gb under [[backends]]",
            )
        )
    for reason, words in WAITS_FOR_BACKENDS.items():
        if waits[reason]:
            findings.append(odd(f"{waiting_text(waits[reason])} {words}", "see the backends above"))
    return findings
