"""What others say in this process, as lines of our log.

asyncio, gRPC and aiohttp use Python's own logging, which without this writes to standard error in
the thread that speaks. That is the event loop's, and it would wait there for whoever reads standard
error slowly, or not at all. The same holds for warnings and for errors that Python can raise
nowhere.
"""

from __future__ import annotations

import logging
import sys
import threading

import structlog

# What libraries say below this is for those who work on them.
LOWEST = logging.WARNING


class StrayLines(logging.Handler):
    """Takes the records of every logger that has no handler of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        fields = {"logger": record.name}
        try:
            message = record.getMessage()
        except Exception as error:  # noqa: BLE001  # words of others, and values that do not fit
            message = str(record.msg)
            fields["problem"] = repr(error)
        if record.stack_info:
            fields["stack"] = record.stack_info
        structlog.get_logger(record.name).log(
            max(record.levelno, LOWEST), message, exc_info=record.exc_info, **fields
        )

    def handleError(self, record: logging.LogRecord) -> None:
        """Logging would say so on standard error, and wait for who reads that."""


def take_strays() -> None:
    """From now on all that is said here goes through structlog, as it is then configured."""
    root = logging.getLogger()
    for each in root.handlers[:]:
        if isinstance(each, StrayLines):
            root.removeHandler(each)
    root.addHandler(StrayLines(LOWEST))
    root.setLevel(LOWEST)
    logging.captureWarnings(True)
    sys.unraisablehook = _unraisable
    threading.excepthook = _thread_ended


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    error = unraisable.exc_value
    structlog.get_logger("python").error(
        unraisable.err_msg or "an error that could be raised nowhere",
        where=repr(unraisable.object),
        exc_info=(unraisable.exc_type, error, unraisable.exc_traceback) if error else None,
    )


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit:
        return
    error = args.exc_value
    structlog.get_logger("python").error(
        "a thread ended with an error",
        thread=args.thread.name if args.thread is not None else "",
        exc_info=(args.exc_type, error, args.exc_traceback) if error else None,
    )
