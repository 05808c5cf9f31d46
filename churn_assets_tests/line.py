"""A line between a program and a server, which can be slow or cut: a proxy on this machine.

What is sent over a cut line waits, as TCP has it wait, until the line is healed; nobody is told that it is cut.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from churn_assets_tests.ports import free_port

_CHUNK = 1 << 16


class Line:
    """A line to a port of this machine. `seconds` is what it takes one way."""

    def __init__(self, to: int, seconds: float = 0.0) -> None:
        self.port = free_port()
        self._to = to
        self._seconds = seconds
        self._loop = asyncio.new_event_loop()
        self._whole = asyncio.Event()
        self._ended = asyncio.Event()

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.clear)

    def heal(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.set)

    @contextmanager
    def open(self) -> Iterator["Line"]:
        begun = threading.Event()
        thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve(begun)), daemon=True)
        thread.start()
        assert begun.wait(10)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._ended.set)
            thread.join(10)

    async def _serve(self, begun: threading.Event) -> None:
        self._whole.set()
        async with await asyncio.start_server(self._connect, "127.0.0.1", self.port):
            begun.set()
            await self._ended.wait()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
            await asyncio.gather(self._pass(reader, there_writer), self._pass(there_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what arrives, each piece after its time on the way."""
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                at, chunk = await on_the_way.get()
                await asyncio.sleep(at - self._loop.time())
                await self._whole.wait()
                if not chunk:
                    break
                writer.write(chunk)
                await writer.drain()

        delivery = asyncio.create_task(deliver())
        delivery.add_done_callback(lambda _: writer.close())
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                on_the_way.put_nowait((self._loop.time() + self._seconds, chunk))
        on_the_way.put_nowait((self._loop.time() + self._seconds, b""))
        with suppress(OSError):
            await delivery
