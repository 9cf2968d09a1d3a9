"""`make run`, for real: simulator, broker and fleet as processes, with and without a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import urllib.request
import uuid
from typing import Any

import psutil
import pytest

from tests.e2e.demonstration import (
    PATIENCE_S,
    QUICK,
    demonstration,
    environment,
    marked,
)

pytestmark = pytest.mark.slow

STAYS_UP = "Ctrl-C ends it"


def test_once_without_a_terminal_ends_well_and_leaves_nothing() -> None:
    with demonstration("--once") as demo:
        said = demo.read_rest()
        assert demo.process.returncode == 0, said
        assert "NO OLLAMA ANSWERS HERE" in said
        assert "36 requests of 12 agents answered, 0 failed" in said
        assert "$ brokerctl status" in said
        # How many of the greedy agent's requests come in hangs on how long sending them takes.
        found = re.search(r"asked 30 times at once: (\d+) let in, (\d+) refused \(", said)
        assert found is not None, said
        let_in, refused = map(int, found.groups())
        assert let_in + refused == 30
        assert let_in >= 10
        ended = f"{36 + let_in} completed, {refused} refused (rate limited)"
        assert f"ended since start: {ended}" in said
        assert len(re.findall(r"got \d+ tokens? after waiting", said)) == 36
        # At this speed a load may be over between two looks; what it leaves stays to the end.
        assert re.search(r"model \S+: resident", said)
        assert "\x1b" not in said
        assert demo.left_behind() == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_stays_up_until_a_signal_and_then_leaves_nothing(ending: signal.Signals) -> None:
    with demonstration("--requests", "1") as demo:
        address = demo.read_until(r"brokerctl\S* status --watch --address (\S+)").group(1)
        demo.read_until(STAYS_UP)
        assert len(marked(demo.mark)) == 3
        status = subprocess.run(
            [sys.executable, "-m", "brokerctl.main", "status", "--address", address],
            env=environment(demo.mark),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert status.returncode == 0, status.stderr
        assert "0 running; 13 agents known" in status.stdout
        demo.signal(ending)
        said = demo.read_rest()
        assert demo.process.returncode == 0, said
        assert demo.left_behind() == []


def test_a_crash_leaves_nothing() -> None:
    with demonstration("--requests", "1") as demo:
        demo.read_until(STAYS_UP)
        demo.signal(signal.SIGKILL)
        demo.process.wait(PATIENCE_S)
        assert demo.left_behind() == []


def test_it_ends_when_the_broker_does() -> None:
    with demonstration("--requests", "1") as demo:
        demo.read_until(STAYS_UP)
        [broker] = [each for each in marked(demo.mark) if "broker.daemon.main" in each.cmdline()]
        broker.send_signal(signal.SIGKILL)
        said = demo.read_rest()
        assert demo.process.returncode == 1
        assert "ended by itself" in said
        assert demo.left_behind() == []


def test_it_is_interrupted_while_it_plays() -> None:
    with demonstration("--requests", "100") as demo:
        demo.read_until("got ")
        demo.signal(signal.SIGINT)
        said = demo.read_rest()
        assert demo.process.returncode == 130, said
        assert "Traceback" not in said
        assert demo.left_behind() == []


def test_a_broker_that_is_there_is_left_alone() -> None:
    with demonstration("--requests", "1") as first:
        port = first.read_until(r"status --watch --address 127\.0\.0\.1:(\d+)").group(1)
        first.read_until(STAYS_UP)
        with demonstration("--once", "--requests", "1", "--port", port) as second:
            said = second.read_rest()
            assert second.process.returncode == 0, said
            assert f"127.0.0.1:{port}: a broker already answers there and is left alone" in said
        assert len(marked(first.mark)) == 3


def asked(url: str, path: str, body: dict[str, object] | None = None) -> dict[str, Any]:
    """An answer of Ollama's HTTP interface."""
    data = None if body is None else json.dumps(body).encode()
    # Not through a proxy, even where the environment names one.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url + path, data=data, timeout=PATIENCE_S) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def test_before_an_ollama_it_uses_a_resident_model_and_evicts_nothing() -> None:
    mark = uuid.uuid4().hex
    command = ["-m", "broker.sim.ollama_sim", "--host", "127.0.0.1", "--port", "0", "--speed", "60"]
    environ = environment(mark)
    del environ["OLLAMA_HOST"]
    with subprocess.Popen(
        [sys.executable, *command], env=environ, stdout=subprocess.PIPE, text=True
    ) as ollama:
        try:
            assert ollama.stdout is not None
            found = re.search(r"listening on (http://\S+)", ollama.stdout.readline())
            assert found is not None
            url = found.group(1)
            for model in ("nomic-embed-text", "llama3.2:1b"):
                path = "/api/embed" if "embed" in model else "/api/generate"
                # At this speed the default keep_alive is over within seconds.
                asked(url, path, {"model": model, "keep_alive": -1})
            before = [each["name"] for each in asked(url, "/api/ps")["models"]]
            with demonstration("--once", ollama_host=url) as demo:
                said = demo.read_rest()
                assert demo.process.returncode == 0, said
            assert f"answers at {url}" in said
            assert "SIMULATED" not in said
            assert "twelve agents ask llama3.2:1b" in said
            assert "36 requests of 12 agents answered, 0 failed" in said
            after = [each["name"] for each in asked(url, "/api/ps")["models"]]
            assert sorted(after) == sorted(before) == ["llama3.2:1b", "nomic-embed-text:latest"]
        finally:
            ollama.kill()


def test_on_a_terminal_there_is_a_picture() -> None:
    mark = uuid.uuid4().hex
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 140, 0, 0))
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "brokerctl.demo", *QUICK, "--once"],
            env={**environment(mark), "TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
    finally:
        os.close(theirs)
    try:
        said = read_terminal(ours)
        assert process.wait(PATIENCE_S) == 0, said
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert "36 requests of 12 agents answered, 0 failed" in said
    assert "streams" in said
    assert re.search(r"waits, position \d+", said)
    assert "opus-1" in said
    # The cursor that the picture hides is shown again.
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")
    assert psutil.wait_procs(marked(mark), timeout=PATIENCE_S)[1] == []


def read_terminal(ours: int) -> str:
    """All that is written to the terminal until its last user is gone."""
    parts = []
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # EIO: nobody has the other end open any more
            break
        if not data:
            break
        parts.append(data)
    return b"".join(parts).decode(errors="replace")
