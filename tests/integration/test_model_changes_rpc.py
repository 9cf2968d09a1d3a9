"""Models are downloaded, deleted, loaded and unloaded over the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest_asyncio

from broker.config.model_changes import ModelAccessConfig, PullsConfig
from broker.config.schema import Config
from broker.core.errors import BackendFailed, DiskFull, PullFailed
from broker.core.ports import PullStep
from broker.daemon.changing import local_minute
from broker_client.pb.broker.v1 import models_pb2 as pb
from tests.integration.daemon import (
    BACKEND,
    PATIENCE_S,
    QUICK,
    LedBackend,
    RunningDaemon,
    refused,
    running_daemon,
)
from tests.integration.fake_backend import FakePull
from tests.integration.wire_requests import generate

NAME = "phi4:14b"
GB = 10**9


def config_in(folder: Path, *, folder_known: bool = False, **pulls: Any) -> Config:
    """A daemon's whose downloads are kept apart from those of other tests."""
    server = {"grpc_address": "127.0.0.1:0", "http_address": "127.0.0.1:0"}
    models_folder = str(folder) if folder_known else str(folder / "not there")
    backend = BACKEND.model_copy(update={"models_folder": models_folder})
    return Config(
        server={**server, "state_dir": str(folder)},  # type: ignore[arg-type]
        backends=(backend,),
        pulls=PullsConfig(retry_s=0.1, retry_max_s=0.1, **pulls),
        model_access=ModelAccessConfig(pull=("puller-*",), load=("type:any", "loader")),
        **QUICK,
    )


@pytest_asyncio.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[RunningDaemon]:
    async with running_daemon(config_in(tmp_path)) as running:
        yield running


async def read_state(call: Any, state: str, **fields: object) -> pb.PullResponse:
    """The first that says this of a download."""
    while True:
        said = await call.read()
        assert isinstance(said, pb.PullResponse), f"it ended before it was {state}"
        if said.state == state and all(getattr(said, key) == x for key, x in fields.items()):
            return said


async def rest_of(call: Any) -> list[pb.PullResponse]:
    said = []
    while isinstance(one := await call.read(), pb.PullResponse):
        said.append(one)
    return said


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Asks again and again."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.01)


async def names(daemon: RunningDaemon) -> set[str]:
    answer = await daemon.models.List(pb.ListRequest())
    return {each.name for each in answer.models}


async def next_pull(daemon: RunningDaemon) -> FakePull:
    return await asyncio.wait_for(daemon.backend.pulls.get(), 30)


async def test_two_who_want_a_model_share_its_download(daemon: RunningDaemon) -> None:
    before = (await daemon.models.List(pb.ListRequest())).changed_unix_ms
    first = daemon.models.Pull(pb.PullRequest(name=NAME))
    pull = await next_pull(daemon)
    second = daemon.models.Pull(pb.PullRequest(name=NAME.upper(), agent_id="puller-2"))
    await read_state(second, "pulling", listeners=2)
    pull.say(0, 14 * GB)
    pull.say(7 * GB, 14 * GB)
    said = await read_state(first, "pulling", completed_bytes=7 * GB)
    assert (said.total_bytes, said.backend) == (14 * GB, "b")
    assert said.bytes_per_s > 0
    assert said.eta_ms > 0
    pull.say(14 * GB, 14 * GB, PullStep.VERIFYING)
    await read_state(second, "verifying")
    pull.complete()
    for call in (first, second):
        last = (await rest_of(call))[-1]
        assert (last.state, last.completed_bytes) == ("done", 14 * GB)
    assert daemon.backend.pulls.empty()

    async def is_listed() -> bool:
        return NAME in await names(daemon)

    await until(is_listed)
    assert (await daemon.models.List(pb.ListRequest())).changed_unix_ms > before
    listed = await daemon.models.ListPulls(pb.ListPullsRequest())
    assert [(each.name, each.state) for each in listed.pulls] == [(NAME, "done")]


async def test_a_download_goes_on_when_nobody_listens(daemon: RunningDaemon) -> None:
    call = daemon.models.Pull(pb.PullRequest(name=NAME))
    pull = await next_pull(daemon)
    call.cancel()

    async def nobody_listens() -> bool:
        listed = await daemon.models.ListPulls(pb.ListPullsRequest())
        return not listed.pulls[0].listeners

    await until(nobody_listens)
    assert not pull.aborted
    pull.complete()
    await pull.ended.wait()


async def test_one_that_nobody_hears_of_ends_where_that_is_configured(tmp_path: Path) -> None:
    async with running_daemon(config_in(tmp_path, stop_when_unheard=True)) as daemon:
        call = daemon.models.Pull(pb.PullRequest(name=NAME))
        pull = await next_pull(daemon)
        call.cancel()
        await asyncio.wait_for(pull.ended.wait(), 30)
        assert pull.aborted
        listed = await daemon.models.ListPulls(pb.ListPullsRequest())
        assert [each.state for each in listed.pulls] == ["cancelled"]


async def test_a_download_that_broke_goes_on_and_does_not_go_back(daemon: RunningDaemon) -> None:
    call = daemon.models.Pull(pb.PullRequest(name=NAME))
    pull = await next_pull(daemon)
    pull.say(0, 14 * GB)
    pull.say(7 * GB, 14 * GB)
    pull.fail(BackendFailed("the line broke"))
    waiting = await read_state(call, "waiting", completed_bytes=7 * GB)
    assert "the line broke" in waiting.detail
    again = await next_pull(daemon)
    again.say(5 * GB, 14 * GB)
    said = await read_state(call, "pulling", total_bytes=14 * GB)
    assert said.completed_bytes == 7 * GB
    again.say(9 * GB, 14 * GB)
    again.complete()
    assert (await rest_of(call))[-1].state == "done"


async def test_what_cannot_be_downloaded_is_told(daemon: RunningDaemon) -> None:
    async def failing(error: Exception) -> tuple[str, grpc.StatusCode]:
        call = daemon.models.Pull(pb.PullRequest(name=NAME))
        pull = await next_pull(daemon)
        pull.verdict.set_exception(error)
        refusal = await refused(call)
        return refusal.reason, refusal.code

    final = PullFailed("no such model", is_final=True)
    assert await failing(final) == ("PULL_FAILED", grpc.StatusCode.FAILED_PRECONDITION)
    assert (await failing(DiskFull("full")))[0] == "DISK_FULL"


async def test_a_cancelled_download_ends_for_all(daemon: RunningDaemon) -> None:
    calls = [daemon.models.Pull(pb.PullRequest(name=NAME)) for _ in range(2)]
    pull = await next_pull(daemon)
    for call in calls:
        await read_state(call, "pulling", listeners=2)
    answer = await daemon.models.CancelPull(pb.CancelPullRequest(name=NAME))
    assert answer.cancelled == 1
    for call in calls:
        assert (await refused(call)).reason == "CANCELLED"
    await asyncio.wait_for(pull.ended.wait(), 30)
    assert pull.aborted
    missing = await refused(daemon.models.CancelPull(pb.CancelPullRequest(name=NAME)))
    assert (missing.reason, missing.code) == ("PULL_NOT_FOUND", grpc.StatusCode.NOT_FOUND)


async def test_only_so_many_wait_and_run(tmp_path: Path) -> None:
    config = config_in(tmp_path, concurrent_max=1, pulls_max=2)
    async with running_daemon(config) as daemon:
        first = daemon.models.Pull(pb.PullRequest(name="one"))
        pull = await next_pull(daemon)
        second = daemon.models.Pull(pb.PullRequest(name="two"))
        assert "turn" in (await read_state(second, "waiting")).detail
        full = await refused(daemon.models.Pull(pb.PullRequest(name="three")))
        assert (full.reason, full.code) == ("PULLS_FULL", grpc.StatusCode.UNAVAILABLE)
        assert full.retry_after_s
        pull.complete()
        assert (await rest_of(first))[-1].state == "done"
        (await next_pull(daemon)).complete()
        assert (await rest_of(second))[-1].state == "done"


async def test_only_so_many_listen(tmp_path: Path) -> None:
    async with running_daemon(config_in(tmp_path, listeners_max=1)) as daemon:
        call = daemon.models.Pull(pb.PullRequest(name=NAME))
        pull = await next_pull(daemon)
        refusal = await refused(daemon.models.Pull(pb.PullRequest(name=NAME)))
        assert (refusal.reason, refusal.code) == ("PULLS_FULL", grpc.StatusCode.UNAVAILABLE)
        assert "listeners_max" in refusal.message
        pull.complete()
        assert (await rest_of(call))[-1].state == "done"


async def test_outside_of_its_hours_only_an_operator_may_begin_one(tmp_path: Path) -> None:
    """A window of one minute, twelve hours from now."""
    minute = (local_minute() + 720) % 1440
    window = (
        f"{minute // 60:02}:{minute % 60:02}-{(minute + 1) % 1440 // 60:02}:{(minute + 1) % 60:02}"
    )
    async with running_daemon(config_in(tmp_path, hours=(window,))) as daemon:
        call = daemon.models.Pull(pb.PullRequest(name=NAME))
        while window not in (await read_state(call, "waiting")).detail:
            pass
        asked = pb.PullRequest(name=NAME, agent_id="puller-1", now=True)
        denied = await refused(daemon.models.Pull(asked))
        assert denied.reason == "MODEL_CHANGE_DENIED"
        urgent = daemon.models.Pull(pb.PullRequest(name=NAME, now=True))
        (await next_pull(daemon)).complete()
        assert (await rest_of(call))[-1].state == (await rest_of(urgent))[-1].state == "done"


async def test_there_must_be_the_disk(tmp_path: Path) -> None:
    config = config_in(tmp_path, folder_known=True, disk_reserve_gb=0.0)
    async with running_daemon(config) as daemon:
        call = daemon.models.Pull(pb.PullRequest(name=NAME))
        pull = await next_pull(daemon)
        pull.say(0, 10**18)  # no disk here has that
        refusal = await refused(call)
        assert (refusal.reason, refusal.code) == ("DISK_FULL", grpc.StatusCode.FAILED_PRECONDITION)
        assert "free" in refusal.message
        await pull.ended.wait()


async def test_downloads_are_gone_on_with_after_a_restart(tmp_path: Path) -> None:
    async with running_daemon(config_in(tmp_path)) as daemon:
        call = daemon.models.Pull(pb.PullRequest(name=NAME, agent_id="puller-1"))
        pull = await next_pull(daemon)
        pull.say(0, 14 * GB)
        pull.say(7 * GB, 14 * GB)
        await read_state(call, "pulling", completed_bytes=7 * GB)
        await daemon.parts.changing.pulls.close()
        assert (await refused(call)).reason == "DRAINING"
    async with running_daemon(config_in(tmp_path)) as daemon:
        again = await next_pull(daemon)
        assert again.model == NAME
        call = daemon.models.Pull(pb.PullRequest(name=NAME))
        first = await call.read()
        assert isinstance(first, pb.PullResponse)
        assert first.completed_bytes == 7 * GB
        again.complete()
        assert (await rest_of(call))[-1].state == "done"
        assert daemon.backend.pulls.empty()


async def test_who_may_do_what_is_configured(daemon: RunningDaemon) -> None:
    models = daemon.models
    asked = [
        models.Pull(pb.PullRequest(name=NAME, agent_id="opus-1")),
        models.CancelPull(pb.CancelPullRequest(name=NAME, agent_id="opus-1")),
        models.Delete(pb.DeleteRequest(name="talk", agent_id="opus-1", dry_run=True)),
        models.Unload(pb.UnloadRequest(name="talk", agent_id="puller-1")),
    ]
    for call in asked:
        refusal = await refused(call)
        assert refusal.reason == "MODEL_CHANGE_DENIED"
        assert refusal.code is grpc.StatusCode.PERMISSION_DENIED
        assert "model_access." in refusal.message
    loaded = await models.Load(pb.LoadRequest(name="talk", agent_id="loader"))
    assert loaded.backend == "b"


async def test_bad_fields_are_named(daemon: RunningDaemon) -> None:
    long = "x" * 600
    for call in (
        daemon.models.Pull(pb.PullRequest(name=long, backend="b" * 65, agent_id="a" * 200)),
        daemon.models.Delete(pb.DeleteRequest(name=long, backend="b" * 65, agent_id="a" * 200)),
        daemon.models.Load(pb.LoadRequest(name=long, backend="b" * 65, agent_id="a" * 200)),
        daemon.models.Unload(pb.UnloadRequest(name=long, backend="b" * 65, agent_id="a" * 200)),
        daemon.models.CancelPull(
            pb.CancelPullRequest(name=long, backend="b" * 65, agent_id="a" * 200)
        ),
    ):
        assert set((await refused(call)).violations) == {"name", "backend", "agent_id"}
    for call in (
        daemon.models.Pull(pb.PullRequest(name="a b")),
        daemon.models.Load(pb.LoadRequest()),
    ):
        assert set((await refused(call)).violations) == {"name"}
    unknown = daemon.models.Pull(pb.PullRequest(name=NAME, backend="c"))
    assert (await refused(unknown)).reason == "BACKEND_NOT_FOUND"


# Deleting


async def test_a_model_is_unloaded_and_then_deleted(daemon: RunningDaemon) -> None:
    await daemon.models.Load(pb.LoadRequest(name="talk"))
    told = await daemon.models.Delete(pb.DeleteRequest(name="talk", dry_run=True))
    assert (list(told.backends), told.freed_bytes) == (["b"], 1000)
    assert "talk:latest" in await names(daemon)
    deleted = await daemon.models.Delete(pb.DeleteRequest(name="talk"))
    assert deleted == told
    assert daemon.backend.story == ["talk:latest unloaded", "talk:latest deleted"]
    assert "talk:latest" not in await names(daemon)
    missing = await refused(daemon.models.Delete(pb.DeleteRequest(name="talk")))
    assert missing.reason == "MODEL_UNKNOWN"


async def test_a_delete_counts_names_that_came_a_moment_ago(daemon: RunningDaemon) -> None:
    talk = next(each for each in daemon.backend.facts if each.name == "talk:latest")
    daemon.backend.facts = (*daemon.backend.facts, replace(talk, name="twin:latest"))
    told = await daemon.models.Delete(pb.DeleteRequest(name="talk", dry_run=True))
    assert told.freed_bytes == 0


async def test_what_is_in_use_is_deleted_only_by_force(daemon: RunningDaemon) -> None:
    call = daemon.inference.Generate(generate(request_id="r1", model="talk"))
    running = await daemon.backend.calls.get()
    refusal = await refused(daemon.models.Delete(pb.DeleteRequest(name="talk")))
    assert (refusal.reason, refusal.code) == (
        "MODEL_IN_USE",
        grpc.StatusCode.FAILED_PRECONDITION,
    )
    assert "1 run" in refusal.message
    forced = asyncio.ensure_future(daemon.models.Delete(pb.DeleteRequest(name="talk", force=True)))
    await asyncio.sleep(0)
    running.complete()
    assert list((await forced).backends) == ["b"]
    assert daemon.backend.story[-2:] == ["talk:latest unloaded", "talk:latest deleted"]
    call.cancel()


# Memory


async def test_a_model_is_loaded_and_unloaded(daemon: RunningDaemon) -> None:
    loaded = await daemon.models.Load(pb.LoadRequest(name="talk"))
    assert loaded.backend == "b"
    assert daemon.backend.loads == ["talk:latest"]
    again = await daemon.models.Load(pb.LoadRequest(name="talk", backend="b"))
    assert (again.load_ms, daemon.backend.loads) == (0.0, ["talk:latest"])
    left = await daemon.models.Unload(pb.UnloadRequest(name="talk"))
    assert (list(left.backends), daemon.backend.unloads) == (["b"], ["talk:latest"])
    nothing = await daemon.models.Unload(pb.UnloadRequest(name="talk"))
    assert list(nothing.backends) == []
    for call in (
        daemon.models.Load(pb.LoadRequest(name="nobody")),
        daemon.models.Unload(pb.UnloadRequest(name="nobody")),
    ):
        assert (await refused(call)).reason == "MODEL_UNKNOWN"


async def test_a_load_whose_client_leaves_is_not_waited_for(daemon: RunningDaemon) -> None:
    daemon.backend.hanging.add("talk:latest")
    call = daemon.models.Load(pb.LoadRequest(name="talk"))
    await daemon.backend.hung.get()
    call.cancel()
    engine = daemon.parts.driver._engine

    async def nobody_wishes() -> bool:
        return not len(engine.wishes)

    await until(nobody_wishes)


async def test_a_load_hears_a_little_before_its_deadline_why_it_is_not(
    daemon: RunningDaemon,
) -> None:
    daemon.backend.hanging.add("talk:latest")
    call = daemon.models.Load(pb.LoadRequest(name="talk"), timeout=1.0)
    refusal = await refused(call)
    assert (refusal.reason, refusal.code) == ("TIMED_OUT", grpc.StatusCode.DEADLINE_EXCEEDED)
    assert "being loaded" in refusal.message


async def test_what_others_loaded_is_not_unloaded(tmp_path: Path) -> None:
    backend = LedBackend()
    backend.loaded["talk:latest"] = 4096
    async with running_daemon(config_in(tmp_path), backend) as daemon:
        refusal = await refused(daemon.models.Unload(pb.UnloadRequest(name="talk")))
        assert refusal.reason == "MODEL_IN_USE"
        assert "somebody else" in refusal.message
        assert backend.unloads == []
