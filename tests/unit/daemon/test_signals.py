"""Signals and what they ask for."""

from __future__ import annotations

import asyncio
import signal

from broker.daemon.signals import Signals


def test_the_first_signal_drains_and_every_later_one_stops() -> None:
    heard: list[str] = []
    signals = Signals(
        lambda: heard.append("drain"), lambda: heard.append("stop"), lambda: heard.append("reload")
    )
    for _ in range(3):
        signals.received()
    assert heard == ["drain", "stop", "stop"]


async def test_a_hangup_reloads_as_often_as_it_comes() -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    signals = Signals(
        lambda: heard.put_nowait("drain"),
        lambda: heard.put_nowait("stop"),
        lambda: heard.put_nowait("reload"),
    )
    loop = asyncio.get_running_loop()
    # What started the tests may ignore hangups (nohup does), and a child inherits that.
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signals.install(loop)
    try:
        for _ in range(2):
            signal.raise_signal(signal.SIGHUP)
            assert await heard.get() == "reload"
        assert heard.empty()
        signals.remove(loop)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signals.remove(loop)
        signal.signal(signal.SIGHUP, inherited)
