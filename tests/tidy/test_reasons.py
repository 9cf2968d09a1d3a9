"""The reasons of a refusal: one table on the wire, and a class of error behind each of its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from broker.core import model_errors
from broker.core.errors import BrokerError
from broker_client.pb.broker.v1 import reasons_pb2

UNSPECIFIED = "UNSPECIFIED"
PREFIX = "REASON_"


# Its classes count as well: a class is known once its module is.
assert model_errors.NoModelFits.reason


def errors_below(error: type[BrokerError]) -> Iterator[type[BrokerError]]:
    for each in error.__subclasses__():
        yield each
        yield from errors_below(each)


def reasons_of_classes() -> dict[type[BrokerError], str]:
    return {each: each.reason for each in errors_below(BrokerError)}


def reasons_on_the_wire() -> set[str]:
    names = {name.removeprefix(PREFIX) for name in reasons_pb2.Reason.keys()}  # noqa: SIM118
    return names - {UNSPECIFIED}


def test_every_reason_of_an_error_is_on_the_wire() -> None:
    assert set(reasons_of_classes().values()) <= reasons_on_the_wire()


def test_every_reason_on_the_wire_is_some_errors() -> None:
    assert reasons_on_the_wire() <= set(reasons_of_classes().values())


def test_a_reason_has_one_meaning() -> None:
    """A class that states a reason states one that nobody else does; its kinds inherit it."""
    stated = Counter(
        each.__dict__["reason"] for each in errors_below(BrokerError) if "reason" in each.__dict__
    )
    assert [reason for reason, times in stated.items() if times > 1] == []


def test_every_row_has_the_prefix_of_its_table() -> None:
    assert all(name.startswith(PREFIX) for name in reasons_pb2.Reason.keys())  # noqa: SIM118
