"""Durations as people type them."""

from __future__ import annotations

import click
import pytest

from brokerctl.duration import Duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("2h", 7_200), ("1.5h", 5_400), ("30d", 2_592_000), ("0.5s", 0.5)],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "90", "m", "-5m", "1e3s", "10 m", "1h30m", "nan", "\u0665m"])
def test_anything_else_is_told_how_to_write_one(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no duration; say 90s, 10m, 2h or 1d"):
        Duration().convert(text, None, None)


@pytest.mark.parametrize("text", ["0s", "0.0m", "0.0001s", "30.1d", "9" * 400 + "h"])
def test_no_time_and_too_much_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="more than nothing and at most 30d"):
        Duration().convert(text, None, None)
