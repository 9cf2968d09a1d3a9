"""Answers about models that no server should give: each is the backend's failure, never a crash."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.backends import ollama_inventory as inventory
from broker.core.errors import BackendFailed

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
