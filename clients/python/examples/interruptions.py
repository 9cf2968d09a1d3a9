"""An answer that may begin anew when a server dies, and that waits for no phase without end."""

import asyncio

from broker_client import AsyncClient, Chunk, Requeued, TimedOut, Timeouts


async def main() -> None:
    limits = Timeouts(queue_s=120, first_token_s=30, token_gap_s=20)
    async with AsyncClient(agent_id="opus-1") as broker:
        if not (models := [each.name for each in await broker.models() if each.may_generate]):
            raise SystemExit("no model that generates text; `brokerctl doctor` says why")
        story = broker.stream(
            model=models[0], prompt="Tell me a story.", on_interruption="restart", timeouts=limits
        )
        try:
            async for event in story:
                if isinstance(event, Chunk):
                    print(event.text, end="", flush=True)
                elif isinstance(event, Requeued) and event.discard_before_seq:
                    print(f"\n--- {event.reason}: it begins anew ---")
        except TimedOut as error:
            print(f"\n{error.phase} took too long")
    print()


asyncio.run(main())
