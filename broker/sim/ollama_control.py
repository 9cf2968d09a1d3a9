"""The simulator's own endpoints, which no Ollama has: /sim/state, /sim/faults, /sim/reset.

Rules: a fault given here is the same as one given by flag; several may come as a list, all or none
are set. State is a snapshot for tests and people, not an interface to rely on field by field.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from broker.sim.ollama_asked import error_body
from broker.sim.ollama_faults import Fault, FaultError, fault_of_document
from broker.sim.ollama_gojson import GoJsonError, Json, decode, marshal
from broker.sim.ollama_http import Handler, document
from broker.sim.ollama_pump import Pump


class Control:
    """Handlers over one pump."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump

    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        return {
            "/sim/state": {"GET": self._state},
            "/sim/faults": {
                "GET": self._list_faults,
                "POST": self._set_faults,
                "DELETE": self._clear_faults,
            },
            "/sim/reset": {"POST": self._reset},
        }

    async def _state(self, _request: web.Request) -> web.StreamResponse:
        state = {**self._pump.state(), "faults": self._faults()}
        return document(200, marshal(state).encode())

    def _faults(self) -> list[Json]:
        return [fault.document() for fault in self._pump.faults.waiting]

    async def _list_faults(self, _request: web.Request) -> web.StreamResponse:
        return document(200, marshal({"faults": self._faults()}).encode())

    async def _set_faults(self, request: web.Request) -> web.StreamResponse:
        try:
            given = decode(await request.read())
            documents = given if isinstance(given, list) else [given]
            faults = [fault_of_document(item, self._pump.catalogue) for item in documents]
            for fault in faults:
                set_fault(self._pump, fault)
        except (GoJsonError, FaultError) as error:
            return document(400, error_body(str(error)))
        return await self._list_faults(request)

    async def _clear_faults(self, request: web.Request) -> web.StreamResponse:
        self._pump.faults.clear()
        return await self._list_faults(request)

    async def _reset(self, request: web.Request) -> web.StreamResponse:
        self._pump.reset()
        return await self._state(request)


def set_fault(pump: Pump, fault: Fault) -> None:
    """Lets a fault wait for its requests, or act now if it concerns the machine; FaultError."""
    if fault.is_immediate:
        pump.strike(fault)
    else:
        pump.faults.add(fault)
