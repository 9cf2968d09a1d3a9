"""Where a broker may be said to be."""

from __future__ import annotations

import click
import pytest

from brokerctl.address import checked_address


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:50434", "box:1", "a.b-c:65535", "[::1]:50434", "unix:/run/b.sock", "dns:///box:1"],
)
def test_an_address_is_taken_as_it_is(address: str) -> None:
    assert checked_address(address) == address


@pytest.mark.parametrize(
    "address",
    *(["box", "box:", ":1", "box:x", "box:0", "box:65536", "http://box:1", "a b:1", "::1:5", " "],),
)
def test_what_is_none_is_wrong_use_that_says_what_is_meant(address: str) -> None:
    with pytest.raises(click.UsageError, match=r"say HOST:PORT, as 127\.0\.0\.1:50434"):
        checked_address(address)
