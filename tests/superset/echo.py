"""A WebSocket server that sends back what it gets, with its name in front: echo.py NAME ADDRESS PORT."""

import asyncio
import sys

from websockets.asyncio.server import serve


async def main(name, address, port):
    async def echo(socket):
        async for message in socket:
            await socket.send(f"{name} {message}")

    def health(connection, request):
        if request.path == "/health":
            return connection.respond(200, "OK\n")
        return None

    # No pings: a connection that is idle is silent on the wire.
    async with serve(echo, address, int(port), process_request=health, ping_interval=None) as server:
        await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
