"""Logs: plain lines for people at a terminal, JSON for machines."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal, TextIO, cast

import msgspec
import structlog

from broker.observability.log_writer import LogWriter
from broker.observability.strays import take_strays

LogFormat = Literal["auto", "console", "json"]

_encoder = msgspec.json.Encoder(enc_hook=repr)


def _as_json(event: object, **_: Any) -> str:
    return _encoder.encode(event).decode()


def configure_logs(level: str, log_format: LogFormat, stream: TextIO | None = None) -> LogWriter:
    """Everything goes to `stream` (standard error), what libraries and Python itself say, too;
    "auto" is console on a terminal, else JSON. The writer is to be closed in the end."""
    stream = stream or sys.stderr
    is_console = log_format == "console" or (log_format == "auto" and stream.isatty())
    renderer: structlog.types.Processor = (
        # Words of agents and backends are shown as literals: a terminal would obey them.
        structlog.dev.ConsoleRenderer(colors=stream.isatty(), repr_native_str=True)
        if is_console
        else structlog.processors.JSONRenderer(serializer=_as_json)
    )
    shared: list[structlog.types.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not is_console:
        shared.append(structlog.processors.format_exc_info)
    writer = LogWriter(stream)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, writer)),
        cache_logger_on_first_use=True,
    )
    take_strays()
    return writer
