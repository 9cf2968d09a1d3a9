"""Answers about models that no server should give: each is the backend's failure, never a crash."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from broker.backends import ollama_inventory as inventory
from broker.backends.figures import LISTED_MAX, LISTING_BYTES_MAX
from broker.core.errors import BackendFailed

A, B = "a" * 64, "b" * 64
DEEP = b'{"unheard_of":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize("body", [DEEP, b"", b"[]", b"\xff"])
@pytest.mark.parametrize(
    "read",
    [
        inventory.listed_models,
        inventory.shown,
        inventory.residents,
        inventory.version,
        inventory.check_loaded,
        lambda body: inventory.embeddings(body, 1),
    ],
)
def test_what_cannot_be_read_is_the_backends_failure(
    read: Callable[[bytes], object], body: bytes
) -> None:
    with pytest.raises(BackendFailed, match="cannot be read"):
        read(body)


@pytest.mark.parametrize("read", [inventory.listed_models, inventory.residents])
def test_more_models_than_any_server_has_are_the_backends_failure(
    read: Callable[[bytes], tuple[object, ...]],
) -> None:
    one = b'{"name":"m","digest":"d"}'
    most = b'{"models":[%s]}' % b",".join([one] * LISTED_MAX)
    assert len(read(most)) == LISTED_MAX
    with pytest.raises(BackendFailed, match=f"lists {LISTED_MAX + 1} models"):
        read(most.replace(b"[", b"[" + one + b","))
    with pytest.raises(BackendFailed, match=f"of over {LISTING_BYTES_MAX} bytes"):
        read(most + b" " * LISTING_BYTES_MAX)


ABSURD = [-1, 2**63, 10**400, -(10**400)]


@pytest.mark.parametrize("figure", ABSURD)
@pytest.mark.parametrize(
    ("read", "body"),
    [
        (inventory.listed_models, b'{"models":[{"name":"m","digest":"d","size":%d}]}'),
        (
            inventory.listed_models,
            b'{"models":[{"name":"m","digest":"d","details":{"context_length":%d}}]}',
        ),
        (inventory.residents, b'{"models":[{"name":"m","digest":"d","size":%d}]}'),
        (inventory.residents, b'{"models":[{"name":"m","digest":"d","size_vram":%d}]}'),
        (inventory.residents, b'{"models":[{"name":"m","digest":"d","context_length":%d}]}'),
        (
            lambda body: inventory.embeddings(body, 1),
            b'{"embeddings":[[1.0]],"prompt_eval_count":%d}',
        ),
    ],
)
def test_an_absurd_figure_goes_no_further(
    read: Callable[[bytes], object], body: bytes, figure: int
) -> None:
    with pytest.raises(BackendFailed, match="cannot be read"):
        read(body % figure)


@pytest.mark.parametrize("figure", ABSURD)
def test_an_absurd_context_in_a_models_own_file_is_as_if_it_said_nothing(figure: int) -> None:
    told = inventory.shown(
        b'{"model_info":{"general.architecture":"a","a.context_length":%d},'
        b'"parameters":"num_ctx %d"}' % (figure, figure)
    )
    assert (told.context_length_train, told.num_ctx) == (0, 0)


def test_a_context_with_more_digits_than_python_reads_is_none() -> None:
    assert inventory.shown(b'{"parameters":"num_ctx %s"}' % (b"9" * 10_000)).num_ctx == 0


def test_a_good_context_in_a_models_own_file_is_taken() -> None:
    told = inventory.shown(
        b'{"model_info":{"general.architecture":"a","a.context_length":10485760},'
        b'"parameters":"num_ctx 4096"}'
    )
    assert (told.context_length_train, told.num_ctx) == (10_485_760, 4096)


def expiry(told: str) -> float | None:
    body = f'{{"models":[{{"name":"m","digest":"d"{told}}}]}}'
    [resident] = inventory.residents(body.encode())
    return resident.expires_unix_s


@pytest.mark.parametrize(
    ("told", "unix_s"),
    [
        ("2026-11-21T03:15:24Z", 1_795_230_924.0),
        ("2026-11-21T03:15:24.845924363Z", 1_795_230_924.845924),
        ("2026-11-21T05:15:24.5+02:00", 1_795_230_924.5),
        ("2319-03-03T02:37:50.828949156Z", None),  # keep_alive -1, as recorded
        ("0001-01-01T00:00:00Z", None),  # the zero of Go
        ("2026-11-21T03:15:24", None),  # of whose clock?
        ("soon", None),
        ("", None),
    ],
)
def test_when_a_model_is_let_go(told: str, unix_s: float | None) -> None:
    assert expiry(f',"expires_at":"{told}"') == unix_s


@pytest.mark.parametrize("told", ["", ',"expires_at":null', ',"expires_at":7', ',"expires_at":[]'])
def test_a_model_that_does_not_say_when_it_is_let_go(told: str) -> None:
    assert expiry(told) is None


@pytest.mark.parametrize(
    ("lines", "runner"),
    [
        ([f"FROM /m/sha256-{A}"], A),
        ([f"FROM /m/sha256-{A}", f"FROM /m/sha256-{B}"], f"{A}+{B}"),
        ([f"FROM /m/sha256-{A}", f"ADAPTER /m/sha256-{B}"], f"{A}+{B}"),
        ([f"FROM /m/{A}", f"ADAPTER /m/sha256-{B}"], "d" * 64),
    ],
)
def test_a_runner_is_all_the_files_that_are_loaded(lines: list[str], runner: str) -> None:
    """Other adapters or projectors on the same weights are a reload (OLLAMA.md §3.5)."""
    body = json.dumps({"modelfile": "\n".join(lines)}).encode()
    listed = inventory.ListedModel(name="m:latest", digest="d" * 64)
    assert inventory.facts(listed, inventory.shown(body)).runner == runner
