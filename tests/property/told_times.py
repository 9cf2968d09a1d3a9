"""What a `queued` event may say of the time until a request starts."""

from __future__ import annotations

from broker.core.effects import TellQueued


def check_times(word: TellQueued) -> None:
    """All of them are told or none, in order and none of them past."""
    times_ns = (word.eta_low_ns, word.eta_ns, word.eta_high_ns)
    known_ns = [each for each in times_ns if each is not None]
    assert len(known_ns) in (0, len(times_ns))
    assert known_ns == sorted(max(0, each) for each in known_ns)
