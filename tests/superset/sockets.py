"""A WebSocket client: sockets.py URL COUNT.

Opens COUNT connections, says on which servers they are, and is silent on all of them until a line comes in. Then it sends a
message on each, and says how many came back, by server. What it says is JSON, a line each.
"""

import asyncio
import collections
import json
import sys

from websockets.asyncio.client import connect


async def ask(socket, message):
    try:
        await socket.send(message)
        server, echo = (await asyncio.wait_for(socket.recv(), 10)).split(" ", 1)
        return server if echo == message else None
    except Exception:
        return None


async def main(url, count):
    # No pings, and no proxy that the environment may name.
    opened = [connect(url, ping_interval=None, proxy=None) for _ in range(int(count))]
    sockets = await asyncio.gather(*opened)
    for message in ["hello", "still there"]:
        servers = await asyncio.gather(*(ask(socket, message) for socket in sockets))
        print(json.dumps(collections.Counter(server for server in servers if server)), flush=True)
        if message == "hello":
            await asyncio.to_thread(sys.stdin.readline)
    await asyncio.gather(*(socket.close() for socket in sockets))


asyncio.run(main(*sys.argv[1:]))
