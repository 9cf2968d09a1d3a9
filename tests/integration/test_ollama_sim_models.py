"""ollama-sim as a process: models are pulled, made, copied and deleted while it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.ollama_sim_process import Answer, Simulator, generate, start_simulator

# Of simulated time: a model of 270 MB takes 27 s, and the test a fraction of one.
RATE = ("--speed", "400", "--pull-mb-s", "10")
NAME = "smollm2:135m"


@pytest.fixture(scope="module")
def process() -> Iterator[Simulator]:
    simulator = start_simulator("--models", "recorded", "--cpu", "--seed", "7", *RATE)
    yield simulator
    simulator.stop()


@pytest_asyncio.fixture
async def simulator(process: Simulator) -> AsyncIterator[Simulator]:
    await process.reset()
    yield process
    await process.wait_until("files_coming", 0)


async def pull(simulator: Simulator, name: str = NAME, **fields: object) -> Answer:
    return await simulator.ask("POST", "/api/pull", {"model": name, **fields})


async def names(simulator: Simulator) -> set[str]:
    document: dict[str, Any] = (await simulator.ask("GET", "/api/tags")).document
    return {entry["name"] for entry in document["models"]}


async def test_a_pull_tells_each_file_and_ends_with_success(simulator: Simulator) -> None:
    answer = await pull(simulator)
    lines: list[dict[str, Any]] = answer.lines
    assert (answer.status, answer.terminated) == (200, True)
    assert lines[0] == {"status": "pulling manifest"}
    assert [line["status"] for line in lines[-3:]] == [
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    files = {line["digest"]: line["total"] for line in lines if "digest" in line}
    assert sum(files.values()) == 270_898_672
    for digest, total in files.items():
        done = [line.get("completed", 0) for line in lines if line.get("digest") == digest]
        assert done == sorted(done)
        assert done[-1] == total
    assert all("completed" not in line or line["completed"] > 0 for line in lines)
    assert NAME in await names(simulator)
    assert len((await pull(simulator)).lines) == len(files) + 4, "what is there is told once"


async def test_two_pulls_of_one_model_share_the_download(simulator: Simulator) -> None:
    both = await asyncio.gather(pull(simulator), pull(simulator, stream=False))
    assert both[0].lines[-1] == both[1].document == {"status": "success"}
    state = await simulator.state()
    files = {line["digest"] for line in both[0].lines if "digest" in line}
    assert (state["pulls"], state["files_pulled"]) == (2, len(files))


async def test_a_pull_that_was_left_goes_on_from_where_it_was(simulator: Simulator) -> None:
    async with simulator.connected() as connection:
        await connection.send("POST", "/api/pull", b'{"model":"smollm2:135m"}')
        await connection.read_head()
        while "completed" not in str(await connection.read_chunk()):
            pass
        left_at = connection.answer.lines[-1]["completed"]
    await simulator.wait_until("files_coming", 0)
    lines: list[dict[str, Any]] = (await pull(simulator)).lines
    assert next(line for line in lines if "digest" in line)["completed"] >= left_at
    assert lines[-1] == {"status": "success"}


async def test_what_a_pull_can_meet(simulator: Simulator) -> None:
    unknown = await pull(simulator, "nobody/nothing")
    assert unknown.lines[-1] == {"error": "pull model manifest: file does not exist"}
    assert (await pull(simulator, "nobody/nothing", stream=False)).status == 500
    await simulator.set_fault(kind="registry_down")
    assert "connection refused" in str((await pull(simulator)).lines[-1]["error"])
    await simulator.set_fault(kind="pull_drop", after=30, model=NAME)
    dropped = await pull(simulator)
    assert dropped.lines[-1] == {"error": "max retries exceeded: unexpected EOF"}
    await simulator.set_fault(kind="disk_full", after=60)
    full = await pull(simulator)
    assert str(full.lines[-1]["error"]).endswith("no space left on device")
    await simulator.set_fault(kind="pull_cut", after=80)
    cut = await pull(simulator)
    assert (cut.terminated, cut.closed) == (False, True)
    completed = [
        int(str(line["completed"]))
        for answer in (dropped, full, cut)
        for line in answer.lines
        if "completed" in line
    ]
    assert completed == sorted(completed), "parts are kept"
    assert (await pull(simulator)).lines[-1] == {"status": "success"}


async def test_a_copy_and_a_variant_lie_over_the_same_file(simulator: Simulator) -> None:
    body = {"source": "plain", "destination": "mine"}
    assert (await simulator.ask("POST", "/api/copy", body)).status == 200
    made = await simulator.ask(
        "POST", "/api/create", {"model": "brief", "from": "plain", "system": "Be brief."}
    )
    assert made.lines[-1] == {"status": "success"}
    document: dict[str, Any] = (await simulator.ask("GET", "/api/tags")).document
    listed = {entry["name"]: entry for entry in document["models"]}
    assert listed["mine:latest"]["digest"] == listed["plain:latest"]["digest"]
    assert listed["brief:latest"]["digest"] != listed["plain:latest"]["digest"]
    assert listed["brief:latest"]["details"]["parent_model"] == "plain:latest"
    shown = (await simulator.ask("POST", "/api/show", {"model": "brief"})).document
    assert shown["system"] == "Be brief."


async def test_what_is_made_from_a_model_that_is_not_there_is_pulled_first(
    simulator: Simulator,
) -> None:
    made = await simulator.ask("POST", "/api/create", {"model": "brief", "from": NAME})
    assert [line for line in made.lines if line == {"status": "success"}] == [made.lines[-1]]
    assert {NAME, "brief:latest"} <= await names(simulator)


async def test_a_deleted_model_goes_on_in_memory_and_cannot_be_unloaded(
    simulator: Simulator,
) -> None:
    """As recorded: 82_delete_while_streaming."""
    assert (await generate(simulator)).terminated
    deleted = await simulator.ask("DELETE", "/api/delete", {"name": "tiny-s"})
    assert (deleted.status, deleted.text) == (200, "")
    assert "tiny-s:latest" in (await simulator.state())["resident"]
    assert (await generate(simulator)).status == 404
    assert (await generate(simulator, prompt="", keep_alive=0)).status == 404
    assert (await simulator.ask("DELETE", "/api/delete", {"name": "tiny-s"})).status == 404


async def test_a_name_can_be_given_to_another_file(simulator: Simulator) -> None:
    """As recorded: 82_name_points_elsewhere."""
    assert (await generate(simulator, model="plain")).terminated
    made = await simulator.ask("POST", "/api/create", {"model": "plain", "from": "tiny-s"})
    assert made.lines[-1] == {"status": "success"}
    assert (await generate(simulator, model="plain")).terminated
    assert (await simulator.state())["resident"].count("plain:latest") == 2
