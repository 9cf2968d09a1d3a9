"""Lines as they are written, and the writer that is never waited for."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator

import pytest
import structlog

from broker.observability.log_writer import LogWriter
from broker.observability.logs import configure_logs

PATIENCE_S = 30.0


@pytest.fixture
def _configuration() -> Iterator[None]:
    """Puts structlog's own settings back."""
    yield
    structlog.reset_defaults()


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
