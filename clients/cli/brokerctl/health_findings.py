"""What `brokerctl doctor` finds about the health of one backend. Pure."""

from __future__ import annotations

from typing import Final

from broker_client import BackendStatus, SickModel
from brokerctl.figures import counted
from brokerctl.finding import Finding, bad, good, odd
from brokerctl.health_lines import breaker_texts, is_well, sick_text

# In the words of an Ollama that answers 503: its own queue is full.
BUSY: Final = "server busy"

# So many losses within five minutes make the broker leave a model alone, as its alert says.
CONTESTED_MIN: Final = 3


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
    findings += _switch_findings(backend)
    return findings


def _switch_findings(backend: BackendStatus) -> list[Finding]:
    """What goes wrong on the way from one model to another, and who else changes them."""
    findings = []
    if backend.vanished_lately >= CONTESTED_MIN:
        findings.append(
            odd(
                f"models left {backend.name} {counted(backend.vanished_lately, 'time')} within "
                "five minutes though the broker had not told them to",
                "another tool loads models there, and the server evicts the broker's for them: "
                "have it come through the broker, or give it a server of its own",
            )
        )
    if backend.memory_held:
        findings.append(
            odd(
                f"the GPU memory of {counted(backend.memory_held, 'model')} that left "
                f"{backend.name} was not seen to come back in time",
                "nvidia-smi shows who holds it; where that is a runner of a model that is not "
                "loaded any more, restart the server",
            )
        )
    if backend.drains_given_up:
        findings.append(
            odd(
                f"{counted(backend.drains_given_up, 'time')} a model on {backend.name} was to "
                "leave and served on, as its last requests did not end",
                "`brokerctl queue` shows what runs for so long; placement.drain_timeout_s says how "
                "long others wait for it",
            )
        )
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
