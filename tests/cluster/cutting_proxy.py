"""Passes TCP connections on, and cuts each after a while. `python cutting_proxy.py FROM TO SECONDS`"""

import asyncio
import sys
from contextlib import suppress

HOST = "127.0.0.1"


async def main(listen: int, to: int, seconds: float) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, outward = await asyncio.open_connection(HOST, to)
        pumps = [asyncio.create_task(pump(*pair)) for pair in ((reader, outward), (onward, writer))]
        await asyncio.wait(pumps, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, outward):
            end.transport.abort()
        for task in pumps:
            task.cancel()

    async with await asyncio.start_server(serve, HOST, listen) as server:
        print("listening", flush=True)
        await server.serve_forever()


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
