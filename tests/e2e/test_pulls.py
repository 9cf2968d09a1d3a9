"""Downloads by a real `brokerd` before a simulated Ollama: shared, gone on with after a kill."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from broker_client import AsyncClient, DiskFull, Draining, ModelChangeDenied, Pull
from tests.e2e.processes import PATIENCE_S, QUICK, SERVER, BrokerProcess, backend_table, brokerd
from tests.integration.ollama_sim_process import Simulator, start_simulator

NAME = "smollm2:135m"
SIZE_BYTES = 270_898_672
# Without a broker's help it takes two seconds.
RATE = ("--models", "recorded", "--cpu", "--speed", "1", "--pull-mb-s", "130")


@pytest.fixture(scope="module")
def process() -> Iterator[Simulator]:
    simulator = start_simulator(*RATE)
    yield simulator
    simulator.stop()


@pytest_asyncio.fixture
async def simulator(process: Simulator) -> AsyncIterator[Simulator]:
    await process.reset()
    yield process
    await process.wait_until("files_coming", 0)


def config(simulator: Simulator, folder: Path, more: str = "", backend: str = "") -> str:
    server = f'{SERVER}\nstate_dir = "{folder / "state"}"'
    where = backend or f'models_folder = "{folder / "nowhere"}"'
    return f"{server}\n{QUICK}\n{backend_table(simulator.port, where)}\n{more}"


async def address_of(broker: BrokerProcess) -> str:
    return str((await broker.said("broker listening"))["grpc"])


async def whole(client: AsyncClient, name: str = NAME) -> list[Pull]:
    return [each async for each in client.pull(name)]


async def names(client: AsyncClient) -> set[str]:
    return {each.name for each in await client.models()}


async def test_two_clients_share_one_download(simulator: Simulator, tmp_path: Path) -> None:
    async with (
        asyncio.timeout(PATIENCE_S * 2),
        brokerd(config(simulator, tmp_path), tmp_path) as broker,
        AsyncClient(await address_of(broker)) as one,
        AsyncClient(await address_of(broker)) as other,
    ):
        for told in await asyncio.gather(whole(one), whole(other)):
            assert told[-1].state == "done"
            done = [each.completed_bytes for each in told]
            assert done == sorted(done)
            assert done[-1] == SIZE_BYTES
            assert any(each.bytes_per_s > 0 and each.eta_s is not None for each in told)
        assert (await simulator.state())["pulls"] == 1
        while NAME not in await names(one):
            pass
        loaded = await one.load_model(NAME)
        assert loaded.load_s > 0
        deleted = await one.delete_model(NAME)
        assert deleted.freed_bytes == SIZE_BYTES
        assert NAME not in await names(one)
        assert (await simulator.state())["resident"] == []


async def test_a_killed_broker_is_followed_by_one_that_goes_on(
    simulator: Simulator, tmp_path: Path
) -> None:
    text = config(simulator, tmp_path)
    async with asyncio.timeout(PATIENCE_S * 2):
        async with (
            brokerd(text, tmp_path) as broker,
            AsyncClient(await address_of(broker)) as client,
        ):
            told = client.pull(NAME)
            async for each in told:
                if each.completed_bytes > SIZE_BYTES // 10:
                    break
            broker.tell(signal.SIGKILL)
            await broker.ended()
            await told.aclose()
        await simulator.wait_until("files_coming", 0)
        async with (
            brokerd(text, tmp_path) as broker,
            AsyncClient(await address_of(broker)) as client,
        ):
            while not (pulls := await client.pulls()):
                pass
            assert [each.name for each in pulls] == [NAME]
            if pulls[0].state != "done":
                last = (await whole(client))[-1]
                assert (last.state, last.completed_bytes) == ("done", SIZE_BYTES)
            assert (await simulator.state())["pulls"] == 2
            while NAME not in await names(client):
                pass


async def test_a_broker_that_leaves_says_so_and_leaves_the_download_to_the_next(
    simulator: Simulator, tmp_path: Path
) -> None:
    text = config(simulator, tmp_path)
    async with asyncio.timeout(PATIENCE_S * 2):
        async with (
            brokerd(text, tmp_path) as broker,
            AsyncClient(await address_of(broker)) as client,
        ):
            told = client.pull(NAME)
            async for each in told:
                if each.completed_bytes:
                    break
            broker.tell(signal.SIGTERM)
            with pytest.raises(Draining, match="go on after it"):
                async for _ in told:
                    pass
            assert await broker.ended() == 0
        async with (
            brokerd(text, tmp_path) as broker,
            AsyncClient(await address_of(broker)) as client,
        ):
            while not (pulls := await client.pulls()):
                pass
            assert [each.name for each in pulls] == [NAME]
            assert await client.cancel_pull(NAME) == 1 or pulls[0].state == "done"


async def test_who_may_not_and_where_there_is_no_disk(simulator: Simulator, tmp_path: Path) -> None:
    more = '[model_access]\npull = ["puller"]\n[pulls]\ndisk_reserve_gb = 100000\n'
    folder = f'models_folder = "{tmp_path}"'
    async with (
        asyncio.timeout(PATIENCE_S),
        brokerd(config(simulator, tmp_path, more, folder), tmp_path) as broker,
        AsyncClient(await address_of(broker), agent_id="greedy") as greedy,
        AsyncClient(await address_of(broker), agent_id="puller") as puller,
    ):
        with pytest.raises(ModelChangeDenied):
            await whole(greedy)
        with pytest.raises(DiskFull, match="disk_reserve_gb"):
            await whole(puller)
        assert (await simulator.state())["pulls"] == 0


async def test_a_line_that_breaks_again_and_again_ends_well(
    simulator: Simulator, tmp_path: Path
) -> None:
    faults: list[dict[str, Any]] = [
        {"kind": "registry_down"},
        {"kind": "pull_drop", "after": 20},
        {"kind": "pull_cut", "after": 50},
    ]
    for fault in faults:
        await simulator.set_fault(**fault)
    more = "[pulls]\nretry_s = 0.1\nretry_max_s = 0.1\n"
    async with (
        asyncio.timeout(PATIENCE_S * 2),
        brokerd(config(simulator, tmp_path, more), tmp_path) as broker,
        AsyncClient(await address_of(broker)) as client,
    ):
        told = await whole(client)
        assert told[-1].state == "done"
        done = [each.completed_bytes for each in told]
        assert done == sorted(done)
        assert {each.state for each in told} >= {"waiting", "pulling", "done"}
