"""What `brokerctl doctor` finds in the level, the load, the host and its GPUs. Pure."""

from __future__ import annotations

from typing import Final

from broker_client import GpuStatus, HostStatus, LoadPart, SensorStatus, Status
from brokerctl.figures import bytes_text, duration_text, share_text
from brokerctl.finding import Finding, bad, good, odd
from brokerctl.level_tables import SHARE_HIGH, foreign_text, held_text, is_held

NEXT_STEPS: Final = {
    "queue": "`brokerctl queue` says whose requests wait, and what for",
    "wait": "`brokerctl queue` says what they wait for; more slots or another server shorten it",
    "host_memory": "see which processes hold it (`ps --sort=-rss`); smaller models or contexts",
    "cpu": "see what else runs on this host (`top`); work of models does not count here",
    "gpu_memory": "see who holds it (`nvidia-smi`); what the broker planned does not count here",
}
# The severity of an alert that keeps work from being done.
CRITICAL: Final = "critical"
# In what a sensor says when it is the permission that is missing.
MAY_NOT: Final = ("may not", "permission", "permitted", "access denied", "not readable")
# Less of a model than this on the GPU is worth a word: the rest answers at the processor's speed.
GPU_SHARE_FULL: Final = 0.99


def machine_findings(status: Status) -> list[Finding]:
    """In the order in which one would look."""
    findings = [*level_findings(status), *alert_findings(status)]
    if status.host is not None:
        findings += host_findings(status.host)
    for gpu in status.gpus:
        findings += gpu_findings(gpu)
    if status.gpus:
        findings += spilled_findings(status)
    for sensor in status.sensors:
        findings += sensor_findings(sensor)
    return findings


def level_findings(status: Status) -> list[Finding]:
    """The level, and the parts of the load that hold it up or soon will."""
    level = status.level_status
    findings = []
    if is_held(level):
        words = f"level {level.level} is {held_text(level)}"
        findings.append(odd(words, "`brokerctl level auto` leaves it to the load again"))
    elif status.level == "normal":
        findings.append(good("the level is normal: everything is offered"))
    else:
        why = f": {level.why}" if level.why else ""
        say = bad if status.level == "critical" else odd
        findings.append(
            say(
                f"the broker works at level {status.level}{why}", "`brokerctl level` shows the load"
            )
        )
    for part in level.parts:
        if part.known and part.share >= SHARE_HIGH:
            findings.append(part_finding(part))
    return findings


def part_finding(part: LoadPart) -> Finding:
    """A part of the load that is high."""
    step = NEXT_STEPS.get(part.name, "`brokerctl level` shows the load")
    return odd(f"{part.name.replace('_', ' ')} is at {share_text(part.share)}: {part.detail}", step)


def alert_findings(status: Status) -> list[Finding]:
    """Alerts that fire, as severe as they are where they are made."""
    return [
        (bad if each.severity == CRITICAL else odd)(
            f"alert {each.name} fires for {duration_text(each.since_ms)}: {each.summary}",
            each.runbook or "see docs/operating.md",
        )
        for each in status.alerts
    ]


def host_findings(host: HostStatus) -> list[Finding]:
    """Memory of the host, as far as the load does not say it already."""
    if host.swap_in_bytes_per_s >= 1:
        return [
            odd(
                f"this host swaps: {bytes_text(round(host.swap_in_bytes_per_s))}/s come back from "
                "swap, so memory is short",
                NEXT_STEPS["host_memory"],
            )
        ]
    free = bytes_text(host.memory_available_bytes)
    return [good(f"{free} of {bytes_text(host.memory_total_bytes)} of memory are available")]


def gpu_findings(gpu: GpuStatus) -> list[Finding]:
    """A card that is slowed down, or held by others."""
    name = f"GPU {gpu.index} ({gpu.name})"
    findings = []
    if gpu.throttle_reasons:
        findings.append(
            odd(
                f"{name} is slowed down: {', '.join(gpu.throttle_reasons)}",
                "see to its cooling and power limit (`nvidia-smi -q -d PERFORMANCE`)",
            )
        )
    if gpu.processes and (foreign := foreign_text(gpu)):
        findings.append(
            odd(f"{name} is used by others, too: {foreign}", "end them, if models need that memory")
        )
    if not findings:
        used = f"{bytes_text(gpu.memory_used_bytes)} of {bytes_text(gpu.memory_total_bytes)}"
        findings.append(good(f"{name}: {used} in use"))
    return findings


def spilled_findings(status: Status) -> list[Finding]:
    """Models that lie on the GPU only in part."""
    findings = []
    for backend in status.backends:
        for each in backend.models:
            place = each.place
            if not place.memory_bytes or not place.gpu_memory_bytes:
                continue
            share = place.gpu_memory_bytes / place.memory_bytes
            if share < GPU_SHARE_FULL:
                findings.append(
                    odd(
                        f"only {share_text(share)} of {each.name} on {backend.name} is on the GPU, "
                        "so it answers slowly",
                        "give it a smaller num_ctx or fewer slots, or free the GPU's memory",
                    )
                )
    return findings


def sensor_findings(sensor: SensorStatus) -> list[Finding]:
    """A sensor that is not ok. Where there is nothing to measure, that is no fault."""
    if sensor.state == "ok":
        return []
    words = f"sensor {sensor.name} is {sensor.state}" + (
        f": {sensor.detail}" if sensor.detail else ""
    )
    if sensor.state == "absent":
        if any(each in sensor.detail.casefold() for each in MAY_NOT):
            return [odd(words, "run the broker as a user who may ask; meanwhile it is not counted")]
        return [good(f"{words}; its parts of the load count for nothing")]
    return [
        odd(
            words,
            "the broker's log says more; what the sensor measures counts for nothing meanwhile",
        )
    ]
