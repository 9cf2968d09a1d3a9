"""Quantities, errors and choices as people read them."""

from __future__ import annotations

import grpc
import pytest

from broker_client import BrokerError, Model, ModelPlace
from broker_client.errors import (
    BY_REASON,
    ConnectionLost,
    ErrorDetails,
    QueueFull,
    Unreachable,
)
from brokerctl.explanation import error_document, exit_status_of, sentence_of
from brokerctl.figures import amount_text, bytes_text, counted, duration_text
from brokerctl.model_choice import choose_model


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0 ms"),
        (999.4, "999 ms"),
        (1000, "1.0 s"),
        (59_940, "59.9 s"),
        (60_000, "1 min 0 s"),
        (3_599_000, "59 min 59 s"),
        (3_600_000, "1 h 0 min"),
        (90_000_000, "25 h 0 min"),
    ],
)
def test_durations(milliseconds: float, text: str) -> None:
    assert duration_text(milliseconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (2_019_393_189, "2.0 GB"), (10**13, "10.0 TB")],
)
def test_bytes(count: int, text: str) -> None:
    assert bytes_text(count) == text


def test_counts() -> None:
    assert [counted(n, "load") for n in (0, 1, 2)] == ["0 loads", "1 load", "2 loads"]


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        *((0.0, "0"), (0.25, "0.25"), (-0.5, "-0.5"), (1.0, "1"), (9.25, "9.2"), (10.0, "10")),
        *((-3.04, "-3"), (120_000.0, "120000")),
    ],
)
def test_amounts(amount: float, text: str) -> None:
    assert amount_text(amount) == text


@pytest.mark.parametrize("kind", [*BY_REASON.values(), ConnectionLost, BrokerError])
def test_every_error_keeps_the_words_of_the_broker(kind: type[BrokerError]) -> None:
    error = kind(ErrorDetails(code=grpc.StatusCode.INTERNAL, message="as the broker put it"))
    assert sentence_of(error, "host:1").startswith("as the broker put it")
    assert exit_status_of(error) == 1


def test_an_error_without_words_still_says_something() -> None:
    error = BrokerError(ErrorDetails(code=grpc.StatusCode.UNIMPLEMENTED))
    assert sentence_of(error, "host:1") == "the broker answered UNIMPLEMENTED"


def test_no_broker_says_how_to_start_one() -> None:
    error = Unreachable(ErrorDetails(code=grpc.StatusCode.UNAVAILABLE, message="failed to connect"))
    said = "no broker answers at 127.0.0.1:50434; start one with `brokerd`"
    assert sentence_of(error, "127.0.0.1:50434") == said
    assert exit_status_of(error) == 3
    document = error_document(error, "127.0.0.1:50434")["error"]
    assert (document["code"], document["message"]) == ("UNAVAILABLE", said)


def test_a_host_that_is_not_found_is_no_broker_that_could_be_started() -> None:
    lost = Unreachable(
        ErrorDetails(code=grpc.StatusCode.UNAVAILABLE, message="errors resolving box:1: [...]")
    )
    said = "no host can be found for box:1; correct --address or BROKER_ADDRESS"
    assert sentence_of(lost, "box:1") == said
    assert exit_status_of(lost) == 3


def model(name: str, size: int, *, resident: bool = False, able: bool = True) -> Model:
    place = ModelPlace(
        backend="gpu0",
        state="resident" if resident else "absent",
        slots=1,
        running=0,
        num_ctx=0,
        memory_bytes=0,
        gpu_memory_bytes=0,
        managed=False,
        expires_ms=None,
    )
    return Model(
        name=name,
        capabilities=("completion",) if able else ("embedding",),
        size_bytes=size,
        parameter_size="",
        quantization="",
        family="",
        context_length_train=0,
        places=(place,),
    )


def test_a_resident_model_is_chosen_before_a_smaller_one() -> None:
    found = [model("small", 1), model("large", 9, resident=True), model("mid", 5, resident=True)]
    chosen = choose_model(found)
    assert chosen is not None
    assert chosen.name == "mid"


def test_without_a_resident_model_the_smallest_that_can_is_chosen() -> None:
    found = [model("e", 1, able=False, resident=True), model("b", 5), model("a", 5)]
    chosen = choose_model(found)
    assert chosen is not None
    assert chosen.name == "a"


def test_no_model_is_no_choice() -> None:
    assert choose_model([model("e", 1, able=False)]) is None


def test_a_refusal_says_when_to_come_back() -> None:
    full = QueueFull(
        ErrorDetails(
            code=grpc.StatusCode.UNAVAILABLE, message="10 requests wait", retry_after_s=295.0
        )
    )
    assert sentence_of(full, "host:1") == (
        "10 requests wait; come back in 4 min 55 s; a better --priority may get in"
    )
