"""Real processes: requests that name an alias, or only what their model must be."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from signal import SIGHUP
from typing import Any

from broker_client.pb.broker.v1 import inference_pb2 as pb
from broker_client.pb.broker.v1 import models_pb2
from tests.e2e.processes import QUICK, ROOT, SERVER, BrokerProcess, backend_table, brokerd
from tests.integration.daemon import read_until, refused
from tests.integration.ollama_sim_process import start_simulator

ALIASES = '[aliases.picky]\ncapabilities = ["tools"]\nprefer = "large"\n'


def asks(model: str, **wants: Any) -> pb.GenerateRequest:
    request = pb.GenerateRequest(agent_id="system-1", model=model)
    request.prompt.text = "go"
    request.options.max_tokens = 4
    if wants:
        request.requirements.CopyFrom(models_pb2.ModelRequirements(**wants))
    return request


async def started(broker: BrokerProcess, request: pb.GenerateRequest) -> pb.Started:
    events = await read_until(broker.inference.Generate(request), "done")
    return next(each.started for each in events if each.HasField("started"))


async def brokerctl(broker: BrokerProcess, *arguments: str) -> str:
    """What it says on standard output, where all is well."""
    address = (await broker.said("broker listening"))["grpc"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "brokerctl.main", *arguments, "--address", address),
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, wrong = await process.communicate()
    assert process.returncode == 0, wrong.decode()
    return said.decode()


async def test_what_is_chosen_answers_and_says_why(tmp_path: Path) -> None:
    simulator = start_simulator("--speed", "200", "--cpu")
    try:
        config = SERVER + QUICK + ALIASES + backend_table(simulator.port)
        async with brokerd(config, tmp_path) as broker:
            await broker.until_status(lambda status: status.backends[0].up)
            sizes = await _sizes(broker)
            tools = {name for name, can in sizes.items() if "tools" in can[1]}
            answers = {name for name, can in sizes.items() if "completion" in can[1]}

            small = await started(broker, asks("small"))
            assert small.model == min(answers, key=lambda each: sizes[each][0])
            assert small.chosen_because.startswith(f"{small.model}: the smallest of")
            assert small.substituted_for == ""

            fast = await started(broker, asks("fast"))  # it is loaded now, and nothing else
            assert fast.model == small.model
            assert f"resident on {fast.backend}" in fast.chosen_because
            assert (await simulator.state())["runner_starts"] == 1

            picky = await started(broker, asks("picky"))
            assert picky.model == max(tools, key=lambda each: sizes[each][0])
            wanting = await started(broker, asks("", capabilities=["tools"], prefer="small"))
            assert wanting.model == min(tools, key=lambda each: sizes[each][0])

            loads = (await simulator.state())["runner_starts"]
            none = await refused(broker.inference.Generate(asks("", size_bytes_max=1)))
            assert none.reason == "NO_MODEL_FITS"
            assert (await simulator.state())["runner_starts"] == loads

            told = json.loads(await brokerctl(broker, "models", "resolve", "picky", "--json"))
            assert told["model"] == picky.model
            assert {each["name"] for each in told["rejected"]} == set(sizes) - tools
            said = await brokerctl(broker, "models", "resolve", "--need", "embedding")
            assert "embedding" in sizes[said.splitlines()[0]][1]
            assert await brokerctl(broker, "generate", "hi", "--model", "fast", "--max-tokens", "3")
    finally:
        simulator.stop()


async def test_an_alias_changes_with_a_reload(tmp_path: Path) -> None:
    simulator = start_simulator("--speed", "200", "--cpu")
    try:
        config = SERVER + QUICK + backend_table(simulator.port)
        async with brokerd(config, tmp_path) as broker:
            await broker.until_status(lambda status: status.backends[0].up)
            assert (await refused(broker.inference.Generate(asks("picky")))).reason == (
                "MODEL_UNKNOWN"
            )
            (tmp_path / "broker.toml").write_text(ALIASES + config)
            broker.tell(SIGHUP)
            await broker.said("configuration reloaded")
            assert (await started(broker, asks("picky"))).chosen_because
    finally:
        simulator.stop()


async def _sizes(broker: BrokerProcess) -> dict[str, tuple[int, set[str]]]:
    listed = json.loads(await brokerctl(broker, "models", "list", "--json"))
    return {each["name"]: (each["size_bytes"], set(each["capabilities"])) for each in listed}
