"""The last thing a broker does: it takes along what it loaded.

Who is stopped may never be started again: a model left behind would hold memory until its
keep_alive ends. A broker that is killed leaves them behind, and its successor takes them over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from broker.core.errors import BrokerError
from broker.core.ports import Backend
from broker.core.residency import ResidencyState
from broker.core.snapshot import Snapshot

# An unload is answered within milliseconds; a server that hangs must not hold up a restart.
GIVE_BACK_TIMEOUT_S = 5.0

_log = structlog.get_logger(__name__)


async def give_back(snapshot: Snapshot, backends: Mapping[str, Backend]) -> None:
    """Asks every idle model that the broker loaded to leave. What fails is logged: the keep_alive
    ends it later. To be called when nothing is under way and nothing new is taken."""
    models = [
        (backends[backend.name], each.model)
        for backend in snapshot.backends
        if backend.up
        for each in backend.residents
        if each.managed and each.state is ResidencyState.RESIDENT and each.running == 0
    ]
    await asyncio.gather(*(_unload(backend, model) for backend, model in models))


async def _unload(backend: Backend, model: str) -> None:
    try:
        async with asyncio.timeout(GIVE_BACK_TIMEOUT_S):
            await backend.unload(model)
    except (BrokerError, TimeoutError) as error:
        _log.warning("a model stays behind", backend=backend.name, model=model, problem=str(error))
