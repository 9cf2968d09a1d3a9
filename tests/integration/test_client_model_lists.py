"""Lists of models, by both clients and by brokerctl, against a scripted broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
import pytest_asyncio

from broker_client import (
    AsyncClient,
    Client,
    Draining,
    MemoryNeed,
    ModelChange,
    ModelList,
    ModelSource,
    ModelUse,
    SubscribersFull,
    Wanted,
)
from broker_client.pb.broker.v1 import common_pb2
from broker_client.pb.broker.v1 import models_pb2 as pb
from tests.integration.scripted_answers import Context, Turn, refuse
from tests.integration.scripted_broker import ScriptedBroker, serving
from tests.integration.test_client_cli import brokerctl
from tests.integration.test_client_fake_server import AsyncCaller, Caller, SyncCaller

EVERYTHING = Wanted(
    search="llama code",
    availability="all",
    capabilities=("tools", "vision"),
    size_bytes_max=5_200_000_000,
    memory_bytes_max=8_000_000_000,
    fits=True,
    context_min=8192,
    exclude_guards=True,
    exclude_dynamic=True,
    level="2",
    resident=True,
    order="use",
)
FILTER = pb.ModelFilter(
    search="llama code",
    availability=pb.AVAILABILITY_ALL,
    capabilities=["tools", "vision"],
    size_bytes_max=5_200_000_000,
    memory_bytes_max=8_000_000_000,
    fits=True,
    context_min=8192,
    exclude_guards=True,
    exclude_dynamic=True,
    level=common_pb2.DEGRADATION_LEVEL_2,
    resident=True,
)
LLAMA = pb.Model(
    name="llama3:8b",
    base="llama3",
    downloaded=True,
    size_bytes=4_661_224_676,
    size_text="4.7 GB",
    status_text="✓ Downloaded (4.7 GB)",
    digest="365c0bd3",
    capabilities=["completion", "tools"],
    context_length_train=8192,
    memory=[
        pb.MemoryNeed(num_ctx=8192, bytes=6_000_000_000, measured=True),
        pb.MemoryNeed(num_ctx=4096, bytes=5_500_000_000),
    ],
    fits=True,
    small=True,
    use=pb.ModelUse(requests=12, output_tokens=345, loads=2, idle_ms=90_000),
    aliases=["fast"],
    places=[pb.ModelPlace(backend="gpu0", state=pb.MODEL_STATE_RESIDENT, slots=2)],
)
QWEN = pb.Model(
    name="qwen3:4b",
    base="qwen3",
    size_text="2.5 GB",
    size_bytes=2_500_000_000,
    status_text="⬇ Downloadable (2.5 GB)",
)
DOWN = pb.ModelSource(name="ollama", age_ms=10_800_000, freshness="stale", problem="refused\nonce")


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with serving() as scripted:
        yield scripted


@pytest_asyncio.fixture(params=[AsyncCaller, SyncCaller])
async def caller(request: pytest.FixtureRequest, broker: ScriptedBroker) -> AsyncIterator[Caller]:
    made: Caller = request.param(broker.address)
    yield made
    await made.close()


def tells(*messages: pb.WatchResponse) -> Turn:
    """A watch that tells these, after which the broker leaves."""

    async def turn(request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        for each in messages:
            yield each
        await refuse(context, grpc.StatusCode.UNAVAILABLE, "DRAINING", outcome="")

    return turn


def watched(
    *models: pb.Model, changes: Sequence[tuple[str, str]] = (), **told: Any
) -> pb.WatchResponse:
    return pb.WatchResponse(
        list=pb.ListResponse(models=models, total=len(models), **told),
        changes=[pb.ModelChange(name=name, kind=kind) for name, kind in changes],
    )


async def test_what_is_wanted_is_asked_for_on_every_page(
    broker: ScriptedBroker, caller: Caller
) -> None:
    models = await caller.call("models", **EVERYTHING)
    assert [each.name for each in models] == ["a:latest", "b:latest"]
    assert [each.page_token for each in broker.listed] == ["", "2"]
    for each in broker.listed:
        assert (each.filter, each.order) == (FILTER, pb.MODEL_ORDER_USE)
    broker.listed.clear()
    await caller.call("models")
    assert broker.listed[0].filter == pb.ModelFilter(availability=pb.AVAILABILITY_DOWNLOADED)
    assert broker.listed[0].order == pb.MODEL_ORDER_NAME


async def test_a_model_tells_all_that_is_known_of_it(
    broker: ScriptedBroker, caller: Caller
) -> None:
    broker.models = [LLAMA, QWEN]
    llama, qwen = await caller.call("models", availability="all")
    assert (llama.base, llama.digest, llama.size_text) == ("llama3", "365c0bd3", "4.7 GB")
    assert llama.memory[0] == MemoryNeed(num_ctx=8192, bytes=6_000_000_000, measured=True)
    assert llama.use == ModelUse(requests=12, output_tokens=345, loads=2, idle_ms=90_000)
    assert (llama.downloaded, llama.fits, llama.small, llama.aliases) == (
        *(True, True, True),
        ("fast",),
    )
    assert (qwen.downloaded, qwen.fits, qwen.use.idle_ms, qwen.memory) == (False, None, None, ())


async def test_no_more_models_are_asked_for_than_are_wanted(
    broker: ScriptedBroker, caller: Caller
) -> None:
    broker.models_total = 200_000
    broker.about_models = pb.ListResponse(changed_unix_ms=7, loading=True, sources=[DOWN])
    found = await caller.call("model_list", models_max=1)
    assert [each.page_size for each in broker.listed] == [1]
    assert (len(found.models), found.total, found.changed_unix_ms) == (1, 200_000, 7)
    assert found.loading
    (source,) = found.sources
    assert source == ModelSource(
        name="ollama", up=False, age_ms=10_800_000, freshness="stale", problem="refused\nonce"
    )


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"availability": "here"}, "availability is 'here'; one of downloaded, downloadable, all"),
        ({"order": "age"}, "order is 'age'; one of name, size, use"),
        ({"level": "3"}, "level is '3'; one of normal, 1, 2, critical"),
    ],
)
async def test_a_word_that_there_is_none_of_is_named(
    broker: ScriptedBroker, caller: Caller, wanted: Wanted, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        await caller.call("models", **wanted)
    assert not broker.listed


async def until_it_leaves(lists: AsyncGenerator[ModelList, None]) -> list[ModelList]:
    """What a watch tells until the broker leaves."""
    found = []
    try:
        async for each in lists:
            found.append(each)  # what came before the error counts
    except Draining:
        return found
    raise AssertionError("the watch ended, and the broker had not left")


MESSAGES = (
    watched(LLAMA, changed_unix_ms=1),
    watched(LLAMA, QWEN, changed_unix_ms=2, changes=[("qwen3:4b", "added")]),
)


async def test_a_list_is_watched_until_the_broker_leaves(broker: ScriptedBroker) -> None:
    broker.script.extend([tells(*MESSAGES)])
    async with AsyncClient(broker.address) as client:
        lists = await until_it_leaves(client.watch_models(page_size=7, **EVERYTHING))
    assert [[each.name for each in found.models] for found in lists] == [
        ["llama3:8b"],
        ["llama3:8b", "qwen3:4b"],
    ]
    assert [found.changes for found in lists] == [
        (),
        (ModelChange(name="qwen3:4b", kind="added"),),
    ]
    (request,) = broker.requests
    assert (request.page_size, request.filter, request.order) == (7, FILTER, pb.MODEL_ORDER_USE)


async def test_threads_watch_likewise(broker: ScriptedBroker) -> None:
    broker.script.extend([tells(*MESSAGES)])

    def watch() -> list[int]:
        found = []
        with Client(broker.address) as client:
            try:
                for each in client.watch_models():
                    found.append(each.changed_unix_ms)  # before the error
            except Draining:
                return found
        raise AssertionError("the watch ended, and the broker had not left")

    assert await asyncio.to_thread(watch) == [1, 2]


async def test_a_watch_that_is_refused_says_why(broker: ScriptedBroker) -> None:
    async def full(request: Any, context: Context) -> AsyncIterator[Any]:
        await refuse(context, grpc.StatusCode.UNAVAILABLE, "SUBSCRIBERS_FULL", retry_after_ms=5)
        yield  # Never reached; makes this a generator, which a turn is.

    broker.script.extend([full])
    async with AsyncClient(broker.address) as client:
        with pytest.raises(SubscribersFull) as caught:
            await anext(client.watch_models())
    assert caught.value.retry_after_s == 0.005


# brokerctl


async def test_options_say_which_models_are_listed(broker: ScriptedBroker) -> None:
    options = (
        *("--search", "llama code", "--all", "--can", "tools", "--can", "vision", "--fits"),
        *("--max-size", "5.2GB", "--max-memory", "8GB", "--context", "8192", "--no-guards"),
        *("--resident", "--sort", "use"),
    )
    for words in (("models", "list", *options), ("models", *options)):
        broker.listed.clear()
        result = await brokerctl(broker, *words)
        assert result.exit_code == 0, result.output
        wanted = pb.ModelFilter()
        wanted.CopyFrom(FILTER)
        wanted.exclude_dynamic = False
        wanted.ClearField("level")
        assert broker.listed[0].filter == wanted
        assert broker.listed[0].order == pb.MODEL_ORDER_USE


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--all", "--downloadable"), "give one of them"),
        (("--max-size", "8b"), "is no size"),
        (("--max-size", "0GB"), "is no size"),
        (("--can", "fly"), "'fly' is not one of"),
        (("--search", "x" * 129), "at most 128"),
        (("--context", "0"), "0 is not in the range"),
    ],
)
async def test_options_that_cannot_be_meant_are_named(
    broker: ScriptedBroker, options: tuple[str, ...], says: str
) -> None:
    result = await brokerctl(broker, "models", "list", *options)
    assert result.exit_code == 2
    assert says in result.stderr


async def test_a_list_that_is_old_says_so_in_words(broker: ScriptedBroker) -> None:
    broker.models = [LLAMA, QWEN]
    library = pb.ModelSource(name="library", up=True, age_ms=90_000_000, freshness="expired")
    broker.about_models = pb.ListResponse(sources=[DOWN, library], loading=True)
    broker.models_total = 7
    result = await brokerctl(broker, "models", "--all")
    assert result.exit_code == 0
    assert "gpu0 (resident)" in result.stdout
    assert "to download" in result.stdout
    assert "(and 5 more models: --search, or a larger --limit)" in result.stdout
    assert result.stderr.splitlines() == [
        "brokerctl: the list is being refreshed",
        "brokerctl: the list is 3 h 0 min old: ollama does not answer (refused once)",
        "brokerctl: what could be downloaded is 25 h 0 min old",
    ]


async def test_where_nothing_is_so_the_next_step_is_told(broker: ScriptedBroker) -> None:
    broker.models = []
    result = await brokerctl(broker, "models", "--can", "vision")
    assert (result.exit_code, result.stdout) == (1, "")
    said = "brokerctl: no model is so; `brokerctl models list --all` lists all that are known\n"
    assert result.stderr == said
    broker.about_models = pb.ListResponse(loading=True)
    result = await brokerctl(broker, "models", "--downloadable")
    assert "nothing is known yet: the list is being loaded" in result.stderr


async def test_a_model_is_shown_with_its_memory_and_use(broker: ScriptedBroker) -> None:
    broker.models = [LLAMA]
    broker.shown = LLAMA
    result = await brokerctl(broker, "models", "show", "a")
    for words in (
        "✓ Downloaded (4.7 GB)",
        "6.0 GB at 8192 tokens, 5.5 GB at 4096 tokens (estimated)",
        "into the memory of a backend",
        "small: it answers at level 2, too",
        "12 requests, the last 1 min 30 s ago; 345 tokens, 2 loads",
        "fast",
        "on gpu0",
    ):
        assert words in result.stdout, words


async def test_a_name_that_is_nearly_a_command_is_asked_about(broker: ScriptedBroker) -> None:
    result = await brokerctl(broker, "models", "lits")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "brokerctl: perhaps `brokerctl models list` was meant",
        "brokerctl: MODEL_UNKNOWN; `brokerctl models` lists the models there are",
    ]


async def test_what_is_watched_is_told_line_by_line(broker: ScriptedBroker) -> None:
    gone = watched(QWEN, changes=[("llama3:8b", "removed"), ("qwen3:4b", "state")], sources=[DOWN])
    broker.script.extend([tells(*MESSAGES, gone, gone)])
    result = await brokerctl(broker, "models", "watch", "--count", "4")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1].startswith("llama3:8b")
    assert [each.partition(" ")[2] for each in lines[2:]] == [
        "qwen3:4b is there now, 2.5 GB",
        "llama3:8b is there no more",
        "qwen3:4b 2.5 GB",
        "the list is 3 h 0 min old: ollama does not answer (refused once)",
        "llama3:8b is there no more",
        "qwen3:4b 2.5 GB",
    ]


async def test_what_is_watched_is_a_document_a_line_for_programs(broker: ScriptedBroker) -> None:
    broker.script.extend([tells(*MESSAGES)])
    result = await brokerctl(broker, "models", "watch", "--json", "--rows", "3", "--fits")
    assert result.exit_code == 1, "the broker left"
    first, second, error = (json.loads(line) for line in result.stdout.splitlines())
    assert [each["name"] for each in first["models"]] == ["llama3:8b"]
    assert second["changes"] == [{"name": "qwen3:4b", "kind": "added"}]
    assert error["error"]["reason"] == "DRAINING"
    (request,) = broker.requests
    assert (request.page_size, request.filter.fits) == (3, True)
