"""The simulator's own endpoints, which no server has: /sim/state, /sim/faults, /sim/reset.

Rules: a fault given here is the same as one given by flag; several may come as a list, all or none
are set. Clearing them lets frozen streams go on. State is a snapshot for tests and people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web

from broker.sim.ollama_gojson import Json
from broker.sim.openai_answers import encoded
from broker.sim.openai_faults import FaultError, fault_of_document
from broker.sim.openai_http import Handler, SimulatedOpenAi


class OpenAiControl:
    """Handlers over one simulated server."""

    def __init__(self, server: SimulatedOpenAi) -> None:
        self._server = server

    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        return {
            "/sim/state": {"GET": self._state},
            "/sim/faults": {"POST": self._set_faults, "DELETE": self._clear_faults},
            "/sim/reset": {"POST": self._clear_faults},
        }

    async def _state(self, _request: web.Request) -> web.StreamResponse:
        slots = self._server.slots
        state: dict[str, Json] = {
            "active": slots.running + slots.waiting,
            "running": slots.running,
            "waiting": slots.waiting,
            "served": self._server.served,
            "faults": [fault.document() for fault in self._server.faults.waiting],
        }
        return web.Response(body=encoded(state), content_type="application/json")

    async def _set_faults(self, request: web.Request) -> web.StreamResponse:
        try:
            given = json.loads(await request.read())
            documents = given if isinstance(given, list) else [given]
            for fault in [fault_of_document(each) for each in documents]:
                self._server.faults.add(fault)
        except ValueError as error:  # a FaultError is one
            what = str(error) if isinstance(error, FaultError) else "the body is no JSON"
            return web.Response(status=400, text=what)
        return await self._state(request)

    async def _clear_faults(self, request: web.Request) -> web.StreamResponse:
        self._server.faults.clear()
        self._server.thaw()
        return await self._state(request)
