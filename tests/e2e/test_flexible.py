"""Real processes: a request that prefers a loaded model is answered by one, without a load."""

from __future__ import annotations

from pathlib import Path

from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.e2e.processes import QUICK, SERVER, backend_table, brokerd
from tests.integration.daemon import read_until
from tests.integration.ollama_sim_process import start_simulator

LOADED, OTHER = "tiny-s", "tiny-m"


def asks(model: str, *fallbacks: str, prefers_loaded: bool) -> pb.GenerateRequest:
    request = pb.GenerateRequest(
        agent_id="system-1",
        model=model,
        fallback_models=fallbacks,
        prefer_loaded=prefers_loaded,
    )
    request.prompt.text = "go"
    request.options.max_tokens = 4
    return request


async def test_what_is_loaded_answers_rather_than_wait_for_a_load(tmp_path: Path) -> None:
    simulator = start_simulator("--speed", "200", "--models", "recorded", "--cpu")
    try:
        config = SERVER + QUICK + backend_table(simulator.port)
        async with brokerd(config, tmp_path) as broker:
            await broker.until_status(lambda status: status.backends[0].up)
            first = asks(LOADED, prefers_loaded=False)
            await read_until(broker.inference.Generate(first), "done")

            flexible = asks(OTHER, LOADED, prefers_loaded=True)
            events = await read_until(broker.inference.Generate(flexible), "done")
            started = next(each.started for each in events if each.HasField("started"))
            assert started.model == f"{LOADED}:latest"
            assert started.substituted_for == OTHER
            why = f"{LOADED}:latest is loaded and {OTHER} is not"
            assert list(started.changes) == [f"model is {LOADED}:latest instead of {OTHER}: {why}"]
            assert (await simulator.state())["runner_starts"] == 1

            patient = asks(OTHER, LOADED, prefers_loaded=False)
            events = await read_until(broker.inference.Generate(patient), "done")
            started = next(each.started for each in events if each.HasField("started"))
            assert (started.model, started.substituted_for) == (f"{OTHER}:latest", "")
            assert (await simulator.state())["runner_starts"] == 2
    finally:
        simulator.stop()
