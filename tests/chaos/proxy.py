"""A bad network: TCP proxies between the workers and the brokers that delay, stall and cut what passes."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from connector.devkit.java import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK_BYTES = 64 * 1024


class Proxy:
    """One listener that passes connections on to `target_port`. Its state is set from any thread.

    `delay_seconds` holds back each chunk, in both directions; `stalled` keeps connections open and passes nothing;
    `refused` closes what is there and what comes.
    """

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self.delay_seconds = 0.0
        self._target_port = target_port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refused = False
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self) -> None:
        server = await asyncio.start_server(self._connected, LOOPBACK, self.port)
        async with server:
            await server.serve_forever()

    def stall(self, stalled: bool) -> None:
        if stalled:
            self._flowing.clear()
        else:
            self._flowing.set()

    def refuse(self, refused: bool) -> None:
        self._refused = refused
        if refused:
            self.cut()

    def cut(self) -> None:
        """Close every connection, once."""
        for writer in list(self._writers):
            writer.close()

    async def _connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._refused:
            writer.close()
            return
        try:
            there, back = await asyncio.open_connection(LOOPBACK, self._target_port)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, back}
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, back))
                both.create_task(self._pass(there, writer))
        finally:
            self._writers -= {writer, back}

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                await self._flowing.wait()
                writer.write(chunk)
                await writer.drain()
        writer.close()


class Network:
    """The proxies of a cluster, in a thread of their own."""

    def __init__(self, target_ports: list[int]) -> None:
        self._loop = asyncio.new_event_loop()
        self.proxies = [Proxy(port) for port in target_ports]
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)

    def tell(
        self, what: Callable[[Proxy], None], proxies: list[Proxy] | None = None
    ) -> None:
        """Change proxies, all by default, in their own thread."""
        for proxy in self.proxies if proxies is None else proxies:
            self._loop.call_soon_threadsafe(what, proxy)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        for proxy in self.proxies:
            self._loop.create_task(proxy.serve())
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.1))
        self._loop.close()
