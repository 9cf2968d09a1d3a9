"""Real processes: two names over one file of weights share one runner, and never restart it."""

from __future__ import annotations

from pathlib import Path

from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.e2e.processes import QUICK, SERVER, backend_table, brokerd
from tests.integration.daemon import read_until
from tests.integration.ollama_sim_process import start_simulator


async def test_names_that_share_weights_are_asked_in_turn_on_one_load(tmp_path: Path) -> None:
    """One of the two has a context size of its own in its Modelfile."""
    simulator = start_simulator("--speed", "200", "--models", "recorded", "--cpu")
    try:
        config = SERVER + QUICK + backend_table(simulator.port)
        async with brokerd(config, tmp_path) as broker:
            await broker.until_status(lambda status: status.backends[0].up)
            for name in ("tiny-s", "tiny-s-variant:v2") * 3:
                request = pb.GenerateRequest(agent_id="opus-1", model=name)
                request.prompt.text = "go"
                request.options.max_tokens = 4
                await read_until(broker.inference.Generate(request), "done")
            state = await simulator.state()
            assert state["runner_starts"] == 1
    finally:
        simulator.stop()
