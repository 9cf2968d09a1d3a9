"""The level, what decides it, and what the sensors say, for people."""

from __future__ import annotations

from typing import Final

from rich.console import RenderableType
from rich.text import Text

from broker_client import Alert, GpuStatus, HostStatus, LevelStatus, LoadPart, SensorStatus
from broker_client.machine import NORMAL
from brokerctl.figures import amount_text, bytes_text, counted, duration_text, share_text
from brokerctl.fitting_table import Column, FittingTable
from brokerctl.one_line import one_line

LEVEL_STYLES: Final = {"normal": "green", "1": "yellow", "2": "bold yellow", "critical": "bold red"}
# From here on a part of the load asks for a higher level where the broker runs with its defaults.
SHARE_HIGH: Final = 0.6
SHARE_CRITICAL: Final = 0.95
# How sensors are, by how much that deserves a look.
SENSOR_STYLES: Final = {"ok": "", "absent": "dim"}
FOREIGN_SHOWN: Final = 3


def level_lines(status: LevelStatus) -> list[Text]:
    """The level, since when, who set it, and why it holds."""
    style = LEVEL_STYLES.get(status.level, "")
    line = Text.assemble("level ", (status.level, style), f" for {duration_text(status.since_ms)}")
    if status.level_before:
        line.append(f", {status.level_before} before")
    if is_held(status):
        line.append(f"; {held_text(status)}", style="bold yellow")
    return [line, Text(f"  {status.why}")] if status.why else [line]


def is_held(status: LevelStatus) -> bool:
    """Does it not follow the load? A broker that says no level says nothing of that either."""
    return not status.automatic and status.level in LEVEL_STYLES


def held_text(status: LevelStatus) -> str:
    """That it does not follow the load, which is easily forgotten, and how that ends."""
    until = "" if status.until_ms is None else f" for another {duration_text(status.until_ms)}"
    words = f"held{until} whatever the load"
    # Normal without an end may be what the configuration says, which a command does not change.
    if status.level == NORMAL and status.until_ms is None:
        return words
    return f"{words}; `brokerctl level auto` ends that"


def load_table(parts: tuple[LoadPart, ...]) -> FittingTable:
    """One row per part of the load; what is not known says why."""
    table = FittingTable(
        Column(name="load"),
        Column(name="share", is_number=True),
        Column(name="value", is_number=True, rank=1),
        Column(name="limit", is_number=True, rank=1),
        Column(name="measured", is_prose=True),
    )
    for each in parts:
        name = each.name.replace("_", " ")
        if not each.known:
            table.add(name, Text("?", style="dim"), "", "", Text(each.detail, style="dim"))
            continue
        table.add(
            name,
            Text(share_text(each.share), style=share_style(each.share)),
            part_amount_text(each.name, each.value),
            part_amount_text(each.name, each.limit) if each.limit else "",
            each.detail,
        )
    return table


def share_style(share: float) -> str:
    """How much a part of the load catches the eye."""
    if share >= SHARE_CRITICAL:
        return "bold red"
    return "yellow" if share >= SHARE_HIGH else "green"


def part_amount_text(name: str, amount: float) -> str:
    """An amount in the unit of its part of the load."""
    if name == "queue":
        return amount_text(amount)
    if name == "wait":
        return duration_text(amount)
    return bytes_text(round(amount)) if name.endswith("memory") else share_text(amount)


def gpus_table(gpus: tuple[GpuStatus, ...]) -> FittingTable:
    """One row per GPU; what it does not tell is left empty."""
    table = FittingTable(
        Column(name="gpu"),
        Column(name="name", rank=2),
        Column(name="memory used"),
        Column(name="of", is_number=True),
        Column(name="busy", is_number=True),
        Column(name="heat", is_number=True, rank=1),
        Column(name="power", is_number=True, rank=1),
        Column(name="slowed by", is_prose=True),
        Column(name="held by others", is_prose=True, rank=3),
    )
    for each in gpus:
        share = each.memory_used_bytes / each.memory_total_bytes if each.memory_total_bytes else 0.0
        table.add(
            f"{each.index} MIG" if each.mig else str(each.index),
            each.name,
            f"{bytes_text(each.memory_used_bytes)}, {share_text(share)}",
            bytes_text(each.memory_total_bytes),
            "" if each.utilization is None else share_text(each.utilization),
            "" if each.temperature_c is None else f"{each.temperature_c:.0f} °C",
            power_text(each),
            Text(", ".join(each.throttle_reasons), style="bold yellow"),
            foreign_text(each),
        )
    return table


def power_text(gpu: GpuStatus) -> str:
    """Watts, of those it may draw; empty where it does not tell."""
    if gpu.power_w is None:
        return ""
    limit = "" if gpu.power_limit_w is None else f" of {gpu.power_limit_w:.0f}"
    return f"{gpu.power_w:.0f}{limit} W"


def foreign_text(gpu: GpuStatus) -> str:
    """Who else holds its memory, those with most of it first; "?" where nobody may ask."""
    if gpu.processes is None:
        return "?"
    foreign = sorted(
        (each for each in gpu.processes if not each.ours),
        key=lambda each: -(each.memory_bytes or 0),
    )
    named = [
        (each.name or f"process {each.pid}")
        + ("" if each.memory_bytes is None else f" {bytes_text(each.memory_bytes)}")
        for each in foreign[:FOREIGN_SHOWN]
    ]
    more = len(foreign) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def host_line(host: HostStatus) -> Text:
    """Processor and memory of the host, in one sentence."""
    line = Text(f"host: {counted(host.cpu_count, 'core')} {share_text(host.cpu_share)} busy")
    if host.models_cpu_share is not None:
        line.append(f" ({share_text(host.models_cpu_share)} by models and the broker)")
    line.append(
        f"; memory: {bytes_text(host.memory_available_bytes)} of "
        f"{bytes_text(host.memory_total_bytes)} available"
    )
    if host.models_memory_bytes is not None:
        line.append(f", models hold {bytes_text(host.models_memory_bytes)}")
    if host.swap_used_bytes:
        line.append(
            f"; swap: {bytes_text(host.swap_used_bytes)} of {bytes_text(host.swap_total_bytes)} "
            "in use"
        )
    if host.swap_in_bytes_per_s >= 1:
        back = f", {bytes_text(round(host.swap_in_bytes_per_s))}/s come back"
        line.append(back, style="bold yellow")
    return line


def sensor_lines(sensors: tuple[SensorStatus, ...]) -> list[Text]:
    """Sensors that are not ok, and why; absence is no fault and whispers."""
    lines = []
    for each in sensors:
        if each.state == "ok":
            continue
        is_old = each.age_ms is not None and each.state != "absent"
        age = f", last heard {duration_text(each.age_ms or 0)} ago" if is_old else ""
        detail = f": {each.detail}" if each.detail else ""
        style = SENSOR_STYLES.get(each.state, "bold yellow")
        lines.append(Text(f"sensor {each.name} is {each.state}{age}{detail}", style=style))
    return lines


def alert_lines(alerts: tuple[Alert, ...]) -> list[RenderableType]:
    """Alerts that fire, each with what to do."""
    lines: list[RenderableType] = []
    for each in alerts:
        style = "bold red" if each.severity == "critical" else "bold yellow"
        lines.append(
            Text.assemble(
                (f"{each.severity} {each.name}", style),
                one_line(f" for {duration_text(each.since_ms)}: {each.summary}"),
            )
        )
        if each.runbook:
            lines.append(Text(f"  -> {each.runbook}"))
    return lines
