"""A bad network: TCP proxies that delay, stall, cut and forget connections to brokers."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from connector.devkit.loopback_ports import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK_BYTES = 64 * 1024
_STOP_SECONDS = 10.0


class Proxy:
    """A listener that passes connections on to `target_port`.

    Call its methods in the thread of its event loop (see `Network.tell`).
    """

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self._target_port = target_port
        self._delay_seconds = 0.0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._is_refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._forgotten: set[asyncio.StreamWriter] = set()

    async def serve(self) -> None:
        """Accept connections until cancelled."""
        server = await asyncio.start_server(self._connected, LOOPBACK, self.port)
        async with server:
            await server.serve_forever()

    def delay(self, seconds: float) -> None:
        """Hold back each chunk of data, in both directions."""
        self._delay_seconds = seconds

    def stall(self, stalled: bool) -> None:
        """Keep connections open, but pass nothing on."""
        if stalled:
            self._flowing.clear()
        else:
            self._flowing.set()

    def refuse(self, refused: bool) -> None:
        """Close every connection, and those to come."""
        self._is_refusing = refused
        if refused:
            self.cut()

    def forget(self) -> None:
        """Drop what comes on the present connections, as a NAT does after a while.

        Neither side is told.
        """
        self._forgotten |= self._writers

    def cut(self) -> None:
        """Close every connection, once."""
        for writer in list(self._writers):
            writer.close()

    async def _connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._is_refusing:
            writer.close()
            return
        try:
            target_reader, target_writer = await asyncio.open_connection(
                LOOPBACK, self._target_port
            )
        except OSError:
            writer.close()
            return
        self._writers |= {writer, target_writer}
        try:
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(self._pass(reader, target_writer))
                both_ways.create_task(self._pass(target_reader, writer))
        finally:
            self._writers -= {writer, target_writer}
            self._forgotten -= {writer, target_writer}

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass data on until either side closes."""
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                if writer in self._forgotten:
                    continue
                if self._delay_seconds:
                    await asyncio.sleep(self._delay_seconds)
                await self._flowing.wait()
                writer.write(chunk)
                await writer.drain()
        writer.close()


class Network:
    """The proxies of a cluster, in an event loop and thread of their own."""

    def __init__(self, target_ports: list[int]) -> None:
        self._loop = asyncio.new_event_loop()
        self.proxies = [Proxy(port) for port in target_ports]
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)

    def tell(
        self, change: Callable[[Proxy], None], proxies: list[Proxy] | None = None
    ) -> None:
        """Change some proxies, or all of them. Safe to call from any thread."""
        if proxies is None:
            proxies = self.proxies
        for proxy in proxies:
            self._loop.call_soon_threadsafe(change, proxy)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        for proxy in self.proxies:
            self._loop.create_task(proxy.serve())
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        # Let the cancelled tasks end.
        self._loop.run_until_complete(asyncio.sleep(0.1))
        self._loop.close()
