"""What `brokerctl doctor` finds about the health of one backend. Pure."""

from __future__ import annotations

from typing import Final

from broker_client import BackendStatus, SickModel
from brokerctl.figures import counted
from brokerctl.finding import Finding, bad, good, odd
from brokerctl.health_lines import breaker_texts, is_well, sick_text

# In the words of an Ollama that answers 503: its own queue is full.
BUSY: Final = "server busy"


def health_findings(backend: BackendStatus) -> list[Finding]:
    """Whether a backend that answers can be worked with, and what keeps work from it."""
    findings = [standing_finding(backend)]
    if backend.draining:
        findings.append(
            odd(
                f"backend {backend.name} is being drained and gets no new work, "
                f"{counted(backend.running, 'request')} running on it",
                f"`brokerctl resume --backend {backend.name}` gives it work again; one that the "
                "configuration no longer names goes when its work has ended",
            )
        )
    findings += [
        odd(
            text,
            "nothing, if the backend is mended: the probe closes it; else see its log for the "
            "failures, and `brokerctl explain` with a request's id for its attempts",
        )
        for text in breaker_texts([backend])
    ]
    findings += [odd(sick_text(backend, each), sick_step(each)) for each in backend.sick_models]
    return findings


def sick_step(sick: SickModel) -> str:
    """What helps a model that could not be loaded; a server that was busy says nothing of it."""
    if BUSY in sick.why.casefold():
        return (
            "nothing is wrong with the model: others fill the server's own queue; have them come "
            "through the broker, or raise OLLAMA_MAX_QUEUE there"
        )
    return (
        "a model that does not fit needs a smaller num_ctx or another host; a broken one is "
        "fetched anew with `ollama pull`"
    )


def standing_finding(backend: BackendStatus) -> Finding:
    """Well, or what was found and what to do."""
    where = f"backend {backend.name} at {backend.url}"
    evidence = f": {backend.evidence}" if backend.evidence else ""
    if is_well(backend):
        return good(f"{where} is up, version {backend.version}")
    if backend.health == "wedged":
        return bad(
            f"{where} is wedged{evidence}",
            "restart it there; `restart_command` under its [[backends]] names a command by which "
            "the broker does so itself",
        )
    if backend.health == "restarting":
        return odd(
            f"{where} is being restarted by the operator's command"
            f"{evidence} ({counted(backend.restarts, 'restart')} since start)",
            "wait; where it does not come back, run the command by hand and read what it says",
        )
    return odd(
        f"{where} is {backend.health}{evidence}",
        "wait: the broker tries to cure it; look again in a minute, and restart it if it is "
        "wedged then",
    )
