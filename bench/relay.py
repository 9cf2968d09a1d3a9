"""The bare relay: the least pass-through from gRPC to Ollama, the measure of what a broker adds.

    python -m bench.relay --upstream 127.0.0.1:PORT

It sends the messages that the broker sends (queued, started, one chunk per token, done) and decides
nothing: no queue, no checks, no deadlines, no limits, no status. aiohttp in, grpc.aio out, uvloop.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator

import aiohttp
import grpc
import msgspec
import uvloop

from broker_client.pb.broker.v1 import inference_pb2 as pb


class _Line(msgspec.Struct):
    response: str = ""
    done: bool = False
    prompt_eval_count: int = 0
    eval_count: int = 0


class Relay:
    """One call in, one call out."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(_Line)

    async def generate(
        self,
        request: pb.GenerateRequest,
        context: grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateEvent],
    ) -> AsyncIterator[pb.GenerateEvent]:
        yield pb.GenerateEvent(queued=pb.Queued(position=1, request_id=request.request_id))
        yield pb.GenerateEvent(started=pb.Started(model=request.model, backend="bare"))
        body = {
            "model": request.model,
            "prompt": request.prompt.text,
            "options": {"num_predict": request.options.max_tokens},
        }
        data = self._encoder.encode(body)
        seq = 0
        async with self._session.post(self._url, data=data) as answer:
            async for raw in answer.content:
                line = self._decoder.decode(raw)
                if line.done:
                    done = pb.Done(model=request.model)
                    done.usage.prompt_tokens = line.prompt_eval_count
                    done.usage.output_tokens = line.eval_count
                    yield pb.GenerateEvent(done=done)
                else:
                    chunk = pb.Chunk(seq=seq, text=line.response, tokens=1)
                    yield pb.GenerateEvent(chunk=chunk)
                    seq += 1


async def _serve(upstream: str) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        server = grpc.aio.server()
        relay = Relay(session, f"http://{upstream}/api/generate")
        method = grpc.unary_stream_rpc_method_handler(
            relay.generate,
            request_deserializer=pb.GenerateRequest.FromString,
            response_serializer=pb.GenerateEvent.SerializeToString,
        )
        handlers = grpc.method_handlers_generic_handler("broker.v1.Inference", {"Generate": method})
        server.add_generic_rpc_handlers((handlers,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(f"relay listening on {port}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True, help="host:port")
    uvloop.run(_serve(parser.parse_args().upstream))


if __name__ == "__main__":
    main()
