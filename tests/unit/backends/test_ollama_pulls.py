"""What Ollama says of a download, whatever the network makes of its lines."""

from __future__ import annotations

import json

import pytest

from broker.backends.ollama_pulls import LAYERS_MAX, LINE_BYTES_MAX, PullReader, error_of_pull
from broker.core.errors import BackendFailed, BrokerError, DiskFull, PullFailed
from broker.core.ports import PullProgress, PullStep


def lines(*documents: dict[str, object]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in documents)


def layer(name: str, total: int, completed: int = 0) -> dict[str, object]:
    said: dict[str, object] = {"status": f"pulling {name}", "digest": name, "total": total}
    return said | ({"completed": completed} if completed else {})


WHOLE = lines(
    {"status": "pulling manifest"},
    layer("a", 100, 40),
    layer("a", 100, 70),
    layer("a", 100, 100),
    layer("b", 10, 10),
    layer("c", 5),
    layer("c", 5, 5),
    {"status": "verifying sha256 digest"},
    {"status": "writing manifest"},
    {"status": "removing unused layers"},
    {"status": "success"},
)


def heard(data: bytes, size: int) -> list[PullProgress]:
    found: list[PullProgress] = []
    reader = PullReader("m", found.append)
    for begin in range(0, len(data), size):
        reader.feed(data[begin : begin + size])
    reader.end()
    assert reader.is_done
    return found


@pytest.mark.parametrize("size", [1, 7, 64, len(WHOLE)])
def test_layers_are_summed_up_and_what_was_there_is_told_apart(size: int) -> None:
    found = heard(WHOLE, size)
    told = [(each.completed_bytes, each.total_bytes, each.fetched_bytes) for each in found]
    assert told == [
        (0, 0, 0),
        (40, 100, 0),
        (70, 100, 30),
        (100, 100, 60),
        (110, 110, 60),
        (110, 115, 60),
        *[(115, 115, 65)] * 4,
    ]
    assert [each.step for each in found] == [
        PullStep.MANIFEST,
        *[PullStep.PULLING] * 6,
        PullStep.VERIFYING,
        *[PullStep.WRITING] * 2,
    ]


def test_words_that_are_new_change_nothing() -> None:
    found = heard(
        lines({"status": "pulling model"}, {"status": "dusting"}, {"status": "success"}), 9
    )
    assert [each.step for each in found] == [PullStep.PULLING] * 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        lines({"status": "pulling manifest"}),
        b"{\n",
        b"[]\n",
        b'{"status":"\xff"}\n',
        b'{"more":' + b"[" * 20_000 + b"\n",
        lines({"status": 1}),
        lines(layer("a", -1)),
        b"x" * (LINE_BYTES_MAX + 1),
        lines(*(layer(str(n), 1) for n in range(LAYERS_MAX + 1))),
    ],
    ids=[
        *("nothing", "cut", "broken", "list", "no text", "deep"),
        *("type", "negative", "long", "layers"),
    ],
)
def test_what_makes_no_sense_has_failed(data: bytes) -> None:
    with pytest.raises(BackendFailed):
        heard(data, 4096)


@pytest.mark.parametrize(
    ("text", "kind", "is_final"),
    [
        ("pull model manifest: file does not exist", PullFailed, True),
        ("pull model manifest: 412: requires a newer version of Ollama.", PullFailed, True),
        ("max retries exceeded: EOF", PullFailed, False),
        ("dial tcp 1.2.3.4:443: connect: connection refused", PullFailed, False),
        ("write /x/sha256-1-partial: no space left on device", DiskFull, True),
        ("write /x: disk quota exceeded", DiskFull, True),
        ("", PullFailed, False),
    ],
)
def test_errors_are_told_apart(text: str, kind: type[BrokerError], is_final: bool) -> None:
    error = error_of_pull("m", text)
    assert type(error) is kind
    assert "m" in error.message
    if isinstance(error, PullFailed):
        assert error.is_final is is_final


def test_an_error_in_the_stream_is_raised_where_it_stands() -> None:
    found: list[PullProgress] = []
    reader = PullReader("m", found.append)
    with pytest.raises(PullFailed, match="it broke"):
        reader.feed(lines(layer("a", 10, 5), {"error": "it broke"}, {"status": "success"}))
    assert [each.completed_bytes for each in found] == [5]
    assert not reader.is_done
