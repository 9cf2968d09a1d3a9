"""How soon those who watch the list of models see what becomes of one under the broker's back, and
what being watched costs.

    python -m bench.models_watched [--changes 50] [--watchers 10]

A real `brokerd` stands before an `ollama-sim` of its own, at its usual intervals. Models are made,
changed and deleted there at moments that the broker's looks know nothing of.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import aiohttp
import uvloop

from bench.processes import Measured, running
from broker_client import AsyncClient, ModelList

SEED: Final = 1
PATIENCE_S: Final = 30.0
COST_S: Final = 10.0  # for so long it is seen what watching costs
BASE: Final = "tinyllama"
KINDS: Final = ("added", "changed", "removed")


class Watcher:
    """Notes when it was first told of a change."""

    def __init__(self, client: AsyncClient) -> None:
        self._lists = client.watch_models(search="seen")
        self._awaited: tuple[str, str] = ("", "")
        self._heard: asyncio.Future[float] | None = None
        self.begun = asyncio.Event()

    def expect(self, name: str, kind: str) -> asyncio.Future[float]:
        """The moment at which it is told of this, by the clock of this process."""
        self._awaited = name, kind
        self._heard = asyncio.get_running_loop().create_future()
        return self._heard

    async def run(self) -> None:
        """Listens until it is cancelled."""
        async for found in self._lists:
            self.begun.set()
            self._take(found)

    def _take(self, found: ModelList) -> None:
        told = {(each.name, each.kind) for each in found.changes}
        if self._heard is not None and not self._heard.done() and self._awaited in told:
            self._heard.set_result(time.perf_counter())


@dataclass(frozen=True, slots=True)
class Site:
    """The processes, and where they listen."""

    broker: Measured
    simulator: Measured
    url: str
    address: str

    def cpu_s(self) -> tuple[float, float]:
        """Of both, so far."""
        return self.broker.cpu_s(), self.simulator.cpu_s()


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    """A broker and its simulator."""
    sim = ["-m", "broker.sim.ollama_sim", "--port", "0"]
    async with running(sim, ready="listening on") as simulator:
        url = simulator.ready_line.split("listening on ")[1].split()[0]
        config = folder / "broker.toml"
        config.write_text(
            f'[server]\ngrpc_address = "127.0.0.1:0"\nhttp_address = "127.0.0.1:0"\n'
            f'state_dir = "{folder}"\nlog_format = "json"\n[model_list]\ncache = false\n'
            f'[monitors]\nhost = false\ngpu = false\n[[backends]]\nurl = "{url}"\n'
        )
        arguments = ["-m", "broker.daemon.main", "--config", str(config)]
        async with running(arguments, ready="broker listening") as broker:
            address = broker.ready_line.split('"grpc":"')[1].split('"')[0]
            yield Site(broker, simulator, url, address)


async def cost(at: Site, for_s: float) -> tuple[float, float]:
    """Percent of a core that the broker and the simulator take now."""
    began_s, before = time.perf_counter(), at.cpu_s()
    await asyncio.sleep(for_s)
    took_s = time.perf_counter() - began_s
    broker, simulator = (now - then for now, then in zip(at.cpu_s(), before, strict=True))
    return 100 * broker / took_s, 100 * simulator / took_s


async def change(session: aiohttp.ClientSession, url: str, name: str, kind: str) -> None:
    """One change at the server."""
    if kind == "removed":
        call = session.delete(f"{url}/api/delete", json={"model": name})
    else:
        body = {"model": name, "from": BASE, "stream": False, "system": f"It was {kind}."}
        call = session.post(f"{url}/api/create", json=body)
    async with call as answer:
        answer.raise_for_status()
        await answer.read()


async def delays_ms(at: Site, watchers: list[Watcher], changes: int) -> list[float]:
    """From when the server had answered until each watcher was told, over all changes."""
    chance, found = Random(SEED), list[float]()
    async with aiohttp.ClientSession() as session:
        for turn in range(changes):
            await asyncio.sleep(chance.random())  # whenever it falls between two looks
            name, kind = f"seen:{turn // 3}", KINDS[turn % 3]
            heard = [each.expect(name, kind) for each in watchers]
            await change(session, at.url, name, kind)
            changed_s = time.perf_counter()
            told_s = await asyncio.wait_for(asyncio.gather(*heard), PATIENCE_S)
            found += [max(0.0, each - changed_s) * 1000 for each in told_s]
    return found


async def measure(changes: int, watchers: int, cost_s: float = COST_S) -> dict[str, float]:
    """The figures by name. For `cost_s` each it is seen what the broker takes without watchers, and
    with them."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        at = await stack.enter_async_context(site(Path(folder)))
        alone = await cost(at, cost_s)
        made = []
        for _ in range(watchers):
            made.append(Watcher(await stack.enter_async_context(AsyncClient(at.address))))
        tasks = [asyncio.ensure_future(each.run()) for each in made]
        await asyncio.wait_for(asyncio.gather(*(each.begun.wait() for each in made)), PATIENCE_S)
        watched = await cost(at, cost_s)
        found = await delays_ms(at, made, changes)
        for each in tasks:
            each.cancel()
    return {
        "models_watch_seen_ms_median": statistics.median(found),
        "models_watch_seen_ms_p95": statistics.quantiles(found, n=20, method="inclusive")[-1],
        "models_watch_seen_ms_max": max(found),
        "models_watch_broker_cpu_percent": watched[0],
        "models_watch_broker_cpu_percent_unwatched": alone[0],
        "models_watch_server_cpu_percent": watched[1],
        "models_watch_server_cpu_percent_unwatched": alone[1],
    }


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=50)
    parser.add_argument("--watchers", type=int, default=10)
    given = parser.parse_args()
    for name, value in uvloop.run(measure(given.changes, given.watchers)).items():
        print(f"{name:<44} {value:10.2f}")  # what it is for


if __name__ == "__main__":
    main()
