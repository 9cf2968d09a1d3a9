"""Lists of models over the wire: filters, orders, pages that stay true while models change, what
could be downloaded, and what only the broker as a whole can say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
import pytest_asyncio

from broker.config.aliases import AliasConfig
from broker.config.schema import Config
from broker.config.serving import ModelConfig
from broker.core.effects import ListAgain
from broker.core.library import LibraryModel, LibraryVariant
from broker.models.library_rows import library_rows
from broker.models.slices import at_once
from broker_client.pb.broker.v1 import common_pb2
from broker_client.pb.broker.v1 import models_pb2 as pb
from tests.integration.daemon import (
    BACKEND,
    CAPABILITIES,
    FREE_PORTS,
    QUICK,
    LedBackend,
    RunningDaemon,
    read_until,
    refused,
    running_daemon,
)
from tests.integration.wire_requests import generate

GB = 10**9
SIZES = {"talk:latest": 12 * GB, "llama3:8b": 5 * GB, "qwen3:8b": GB, "embed:latest": GB // 10}
LIBRARY = (
    LibraryModel(
        name="gemma3",
        capabilities=frozenset({"completion", "vision"}),
        description="A family of models by Google, " + "long " * 200,
        variants=(
            LibraryVariant(name="gemma3:27b", size_bytes=17 * GB, context_window=131_072),
            LibraryVariant(name="gemma3:4b", size_bytes=3 * GB, context_window=131_072),
            LibraryVariant(name="gemma3:latest"),
        ),
    ),
    LibraryModel(
        name="llama3",
        capabilities=frozenset({"completion"}),
        variants=(
            LibraryVariant(name="llama3:70b", size_bytes=40 * GB, context_window=8192),
            LibraryVariant(name="llama3:8b", size_bytes=5 * GB, context_window=8192),
        ),
    ),
    LibraryModel(
        name="llama-guard3",
        capabilities=frozenset({"completion"}),
        variants=(LibraryVariant(name="llama-guard3:8b", size_bytes=5 * GB),),
    ),
)
CONFIG = Config(
    server=FREE_PORTS,
    backends=(BACKEND.model_copy(update={"memory_gb": 8.0}),),
    models={"talk": ModelConfig()},
    aliases={
        "mine": AliasConfig(models=("qwen3:8b", "talk")),
        "eyes": AliasConfig(capabilities=("vision",)),
    },
    **QUICK,
)
ALL = pb.AVAILABILITY_ALL


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def daemon() -> AsyncIterator[RunningDaemon]:
    backend = LedBackend()
    backend.facts = tuple(
        replace(each, size_bytes=SIZES[each.name], modified_at="2026-01-02T03:04:05Z")
        for each in backend.facts
    )
    async with running_daemon(CONFIG, backend=backend) as running:
        index = running.parts.listing.index
        index.replace(1, library=at_once(library_rows(LIBRARY)))
        yield running


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def listed(daemon: RunningDaemon, order: Any = 0, **wanted: Any) -> list[str]:
    """The names, on pages of two."""
    found: list[str] = []
    request = pb.ListRequest(page_size=2, order=order, filter=pb.ModelFilter(**wanted))
    while True:
        page = await daemon.models.List(request)
        found += [each.name for each in page.models]
        assert len(found) <= page.total
        request.page_token = page.next_page_token
        if not page.next_page_token:
            assert page.total == len(found)
            return found


async def one(daemon: RunningDaemon, name: str) -> pb.Model:
    return (await daemon.models.Get(pb.GetRequest(name=name))).model


async def test_without_a_filter_all_that_is_downloaded_is_listed(daemon: RunningDaemon) -> None:
    assert await listed(daemon) == sorted(CAPABILITIES)


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ({"availability": pb.AVAILABILITY_DOWNLOADED, "search": "LLAMA"}, ["llama3:8b"]),
        (
            {"availability": pb.AVAILABILITY_DOWNLOADABLE},
            ["gemma3:27b", "gemma3:4b", "gemma3:latest", "llama-guard3:8b", "llama3:70b"],
        ),
        ({"availability": ALL, "search": "llama 8b"}, ["llama-guard3:8b", "llama3:8b"]),
        (
            {"availability": ALL, "search": "llama", "exclude_guards": True},
            ["llama3:70b", "llama3:8b"],
        ),
        ({"search": "google", "availability": ALL, "size_bytes_max": 4 * GB}, ["gemma3:4b"]),
        (
            {"capabilities": ["vision"], "availability": ALL, "context_min": 8192},
            ["gemma3:27b", "gemma3:4b", "talk:latest"],
        ),
        ({"capabilities": ["tools", "thinking"]}, ["talk:latest"]),
        ({"exclude_dynamic": True}, ["qwen3:8b", "talk:latest"]),
        ({"fits": True}, ["embed:latest", "llama3:8b", "qwen3:8b"]),
        (
            {"fits": True, "availability": ALL, "size_bytes_max": 20 * GB},
            ["embed:latest", "gemma3:4b", "llama-guard3:8b", "llama3:8b", "qwen3:8b"],
        ),
        ({"memory_bytes_max": 2 * GB}, ["embed:latest", "qwen3:8b"]),
        ({"level": common_pb2.DEGRADATION_LEVEL_2}, ["embed:latest", "qwen3:8b"]),
        ({"level": common_pb2.DEGRADATION_LEVEL_1}, sorted(CAPABILITIES)),
        ({"resident": True}, []),
        ({"search": "nothing is so"}, []),
    ],
)
async def test_all_that_is_asked_holds(
    daemon: RunningDaemon, wanted: dict[str, Any], names: list[str]
) -> None:
    assert await listed(daemon, **wanted) == names


async def test_orders(daemon: RunningDaemon) -> None:
    by_size = await listed(daemon, pb.MODEL_ORDER_SIZE, availability=ALL)
    assert by_size[:3] == ["embed:latest", "qwen3:8b", "gemma3:4b"]
    assert by_size[-2:] == ["llama3:70b", "gemma3:latest"], "of unknown size last"
    assert len(by_size) == len(set(by_size)) == 9


async def test_the_most_used_come_first_with_how_much_they_were_used(
    daemon: RunningDaemon,
) -> None:
    stream = daemon.inference.Generate(generate(model="qwen3:8b"))
    await read_until(stream, "started")
    assert await listed(daemon, resident=True) == ["qwen3:8b"]
    (await daemon.backend.calls.get()).complete()
    await read_until(stream, "done")
    assert (await listed(daemon, pb.MODEL_ORDER_USE))[0] == "qwen3:8b"
    model = await one(daemon, "qwen3:8b")
    assert (model.use.requests, model.use.HasField("idle_ms")) == (1, True)
    assert not (await one(daemon, "talk")).use.HasField("idle_ms")


async def test_a_model_tells_all_that_is_known_of_it(daemon: RunningDaemon) -> None:
    talk = await one(daemon, "talk")
    assert (talk.downloaded, talk.base, talk.dynamic, talk.guard) == (True, "talk", False, False)
    assert (talk.size_text, talk.status_text) == ("12 GB", "✓ Downloaded (12 GB)")
    assert talk.modified_at == "2026-01-02T03:04:05Z"
    assert talk.memory[0].bytes > 12 * GB
    assert (talk.HasField("fits"), talk.fits, talk.small) == (True, False, False)
    assert list(talk.aliases) == ["eyes", "mine"]
    qwen = await one(daemon, "qwen3:8b")
    assert (qwen.fits, qwen.small, list(qwen.aliases)) == (True, True, ["mine"])
    assert qwen.digest
    assert (await one(daemon, "llama3:8b")).dynamic


async def test_what_could_be_downloaded_is_told_likewise(daemon: RunningDaemon) -> None:
    model = await one(daemon, "library/gemma3:27b")
    assert (model.name, model.downloaded, model.base) == ("gemma3:27b", False, "gemma3")
    assert (model.size_text, model.status_text) == ("17 GB", "⬇ Downloadable (17 GB)")
    assert (list(model.places), model.context_length_train) == ([], 131_072)
    assert list(model.capabilities) == ["completion", "vision"]
    assert (model.HasField("fits"), model.fits, model.small) == (True, False, False)
    assert len(model.description) == 512
    unknown = await one(daemon, "gemma3")
    assert (unknown.size_bytes, unknown.size_text) == (0, "")
    assert unknown.status_text == "⬇ Downloadable"
    assert (unknown.HasField("fits"), unknown.small, len(unknown.memory)) == (False, False, 0)
    assert (await one(daemon, "llama-guard3:8b")).guard


async def test_llama3_70b_is_not_downloaded_because_8b_is(daemon: RunningDaemon) -> None:
    assert (await one(daemon, "llama3:8b")).downloaded
    assert not (await one(daemon, "llama3:70b")).downloaded


async def test_what_is_nowhere_is_told_with_the_nearest(daemon: RunningDaemon) -> None:
    refusal = await refused(daemon.models.Get(pb.GetRequest(name="gema3:27b")))
    assert refusal.code is grpc.StatusCode.NOT_FOUND
    assert refusal.about["nearest"].split(",")[0] == "gemma3:27b"


async def test_a_list_says_where_it_comes_from(daemon: RunningDaemon) -> None:
    page = await daemon.models.List(pb.ListRequest())
    assert page.changed_unix_ms == daemon.parts.listing.index.changed_unix_ms > 0
    backend = next(each for each in page.sources if each.name == "b")
    assert (backend.up, backend.freshness, backend.problem) == (True, "fresh", "")
    assert backend.HasField("age_ms")
    assert not page.loading


async def test_a_library_that_nobody_asks_is_not_being_loaded(daemon: RunningDaemon) -> None:
    page = await daemon.models.List(pb.ListRequest(filter=pb.ModelFilter(availability=ALL)))
    library = next(each for each in page.sources if each.name == "library")
    assert (library.up, library.HasField("age_ms"), page.loading) == (False, False, False)


async def test_pages_stay_true_while_models_come_and_go(daemon: RunningDaemon) -> None:
    """Whatever is there all the time is listed once, and nothing twice."""
    backend, before = daemon.backend, daemon.backend.facts
    seen: list[str] = []
    request = pb.ListRequest(page_size=1)
    try:
        while not seen or request.page_token:
            page = await daemon.models.List(request)
            seen += [each.name for each in page.models]
            request.page_token = page.next_page_token
            # One comes before what was told last, one after; and that goes itself.
            come = [replace(before[0], name=f"{letter}{len(seen)}:x") for letter in "as"]
            stay = [each for each in before if each.name != seen[-1]]
            backend.facts = (*stay, *come)
            daemon.parts.pooling.pool.list_again(ListAgain("b"))
            await daemon.parts.pooling.pool.ask_all()
    finally:
        backend.facts = before
    assert [each for each in seen if each in CAPABILITIES] == sorted(CAPABILITIES)
    assert len(seen) == len(set(seen))
