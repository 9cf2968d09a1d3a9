"""Lines as they are written, and the writer that is never waited for."""

from __future__ import annotations

import io
import json
import logging
import os
import select
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest
import structlog

from broker.observability.log_writer import LogWriter
from broker.observability.logs import configure_logs
from broker.observability.strays import StrayLines

PATIENCE_S = 30.0


@pytest.fixture
def _configuration() -> Iterator[None]:
    """Puts the settings of structlog, of logging and of Python back."""
    root, unraisable, ended = logging.getLogger(), sys.unraisablehook, threading.excepthook
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    sys.unraisablehook, threading.excepthook = unraisable, ended


@pytest.mark.usefixtures("_configuration")
def test_json_lines_have_event_level_and_time() -> None:
    stream = io.StringIO()
    writer = configure_logs("info", "json", stream)
    log = structlog.get_logger("x")
    log.debug("not this")
    log.info("this", number=1, words=("a", "b"), odd=ValueError("no JSON"), text='q"\n')
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        log.exception("and this")
    assert writer.close(PATIENCE_S)
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "this",
        "level": "info",
        "number": 1,
        "words": ["a", "b"],
        "odd": "ValueError('no JSON')",
        "text": 'q"\n',
    }
    assert "RuntimeError: broken" in second["exception"]


@pytest.mark.usefixtures("_configuration")
def test_plain_lines_obey_nobody() -> None:
    stream = io.StringIO()
    writer = configure_logs("info", "auto", stream)
    assert not stream.isatty()
    writer.close(PATIENCE_S)
    assert stream.getvalue() == ""
    writer = configure_logs("info", "console", stream)
    structlog.get_logger("x").info("said", words="\x1b[2Jgone\nanother line")
    assert writer.close(PATIENCE_S)
    (only,) = stream.getvalue().splitlines()
    assert "\x1b" not in only
    assert "gone" in only


class SlowSink(io.StringIO):
    """Writes when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_write = threading.Event()
        self.has_begun = threading.Event()

    def write(self, text: str) -> int:
        self.has_begun.set()
        assert self.may_write.wait(PATIENCE_S)
        return super().write(text)


def test_a_sink_that_hangs_delays_nobody_and_what_found_no_room_is_counted() -> None:
    sink = SlowSink()
    writer = LogWriter(sink, waiting_chars_max=10, gather_s=0)
    writer.write("first\n")
    assert sink.has_begun.wait(PATIENCE_S)
    for _ in range(5):
        writer.write("12345\n")  # one finds room, four do not
    assert writer.waiting_chars == 6
    assert not writer.close(0)
    sink.may_write.set()
    assert writer.close(PATIENCE_S)
    first, second, last = sink.getvalue().splitlines()
    assert (first, second) == ("first", "12345")
    said = json.loads(last)
    assert said["lines"] == 4
    assert "dropped" in said["event"]


def test_lines_of_many_threads_come_whole_and_all() -> None:
    sink = io.StringIO()
    writer = LogWriter(sink, gather_s=0)

    def tell(name: int) -> None:
        for number in range(200):
            writer.write(f"{name} {number}\n")

    threads = [threading.Thread(target=tell, args=(name,)) for name in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert writer.close(PATIENCE_S)
    lines = sink.getvalue().splitlines()
    assert sorted(lines) == sorted(f"{name} {n}" for name in range(4) for n in range(200))


def test_a_sink_that_is_closed_ends_nothing() -> None:
    sink = io.StringIO()
    sink.close()
    writer = LogWriter(sink, gather_s=0)
    writer.write("to nobody\n")
    assert writer.close(PATIENCE_S)


@pytest.mark.usefixtures("_configuration")
def test_what_libraries_say_is_a_line_like_any_other() -> None:
    stream = io.StringIO()
    for _ in range(2):  # configured again, nothing is said twice
        writer = configure_logs("info", "json", stream)
    root = logging.getLogger()  # without pytest's, which raises where words and values do not fit
    root.handlers[:] = [each for each in root.handlers if isinstance(each, StrayLines)]
    library = logging.getLogger("aiohttp.server")
    library.info("not this")
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        library.exception("Error handling request %s", 7)
    library.warning("%d", "no number")
    writer.close(PATIENCE_S)
    first, second, *rest = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["level"]) == ("Error handling request 7", "error")
    assert first["logger"] == "aiohttp.server"
    assert "RuntimeError: broken" in first["exception"]
    assert (second["event"], second["level"]) == ("%d", "warning")
    assert "TypeError" in second["problem"]
    assert rest == []


@pytest.mark.usefixtures("_configuration")
def test_what_python_can_raise_nowhere_is_a_line_too() -> None:
    class Bad:
        def __del__(self) -> None:
            raise RuntimeError("in the end")

    def fail() -> None:
        raise RuntimeError("in a thread")

    stream = io.StringIO()
    writer = configure_logs("info", "json", stream)
    Bad()
    thread = threading.Thread(target=fail, name="one")
    thread.start()
    thread.join()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    writer.close(PATIENCE_S)
    first, second, third = map(json.loads, stream.getvalue().splitlines())
    assert "in the end" in first["exception"]
    assert "Bad" in first["where"]
    assert "in a thread" in second["exception"]
    assert second["thread"] == "one"
    assert third["logger"] == "py.warnings"
    assert "old" in third["event"]


SPEAKS = """
import logging, os, sys, structlog
from broker.observability.logs import configure_logs

writer = configure_logs("info", "json")
structlog.get_logger().info("x" * 4_000_000)  # far more than a pipe holds
sys.stdin.readline()
logging.getLogger("asyncio").error("Task exception was never retrieved")
os.write(1, b"went on")
sys.stdin.readline()
writer.close(0)
"""


def test_a_reader_that_stands_still_stops_no_thread_that_says_something() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SPEAKS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as speaker:
        assert speaker.stdin is not None
        assert speaker.stdout is not None
        assert speaker.stderr is not None
        try:
            # What has begun to come, and is not read, is a write that stands.
            assert select.select([speaker.stderr], [], [], PATIENCE_S)[0]
            speaker.stdin.write(b"\n")
            speaker.stdin.flush()
            assert select.select([speaker.stdout], [], [], PATIENCE_S)[0]
            assert speaker.stdout.read(7) == b"went on"
        finally:
            speaker.kill()
