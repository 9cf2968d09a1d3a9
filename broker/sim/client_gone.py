"""Clients that leave while a simulated server writes to them: no fault of the server's, so no word
of it in its log. A handler that waits is cancelled when its client leaves; one that is just writing
hears it from its connection."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

CLIENT_CLOSED_REQUEST = 499  # as proxies log it; nobody is there to read it


@web.middleware
async def lets_go(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Ends a call whose client has left as any other ends."""
    try:
        return await handler(request)
    except ConnectionResetError:
        return web.Response(status=CLIENT_CLOSED_REQUEST)
