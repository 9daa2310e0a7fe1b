"""Bare sockets, for what no well-behaved library would send: an HTTP connection and a NATS connection."""

import asyncio
import contextlib
import json
from typing import NamedTuple
from urllib.parse import urlsplit


class HttpReply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def reason(self):
        """The ``reason`` of a problem document; empty for any other body."""
        is_problem = self.headers.get("content-type") == "application/problem+json"
        return json.loads(self.body)["reason"] if is_problem else ""


class HttpWire:
    """One keep-alive connection. A reply that does not come, or an end of the connection, fails the test."""

    def __init__(self, port):
        self._port = port

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port, limit=4 * 1024 * 1024)
        return self

    async def __aexit__(self, *_):
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def send(self, method, target, body=b"", headers=()):
        lines = [f"{method} {target} HTTP/1.1".encode("latin-1"), b"host: x"]
        if body or method in ("POST", "PUT"):
            lines.append(b"content-length: %d" % len(body))
        lines += [name + b": " + value for name, value in headers]
        self.writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)

    async def receive(self, *, head=False, timeout=15.0):
        """The next reply, its body whole."""
        async with asyncio.timeout(timeout):
            block = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = block.rstrip("\r\n").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = b""
            if headers.get("transfer-encoding") == "chunked":
                while size := int((await self.reader.readline()).strip(), 16):
                    body += (await self.reader.readexactly(size + 2))[:-2]
                await self.reader.readline()
            elif not head:
                body = await self.reader.readexactly(int(headers.get("content-length", 0)))
            return HttpReply(int(first.split(" ")[1]), headers, body)

    async def ask(self, method, target, body=b"", headers=()):
        self.send(method, target, body, headers)
        await self.writer.drain()
        return await self.receive(head=method == "HEAD")


class NatsWire:
    """A NATS client that sends whatever bytes it is given. ``errors`` has what the server complained of."""

    def __init__(self, url):
        parts = urlsplit(url)
        self._address = (parts.hostname, parts.port)
        self.errors = []
        self.closed = False
        self._pongs = asyncio.Queue()
        self._answer = None

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection(*self._address)
        await self.reader.readline()  # INFO
        self.writer.write(b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n')
        self._reading = asyncio.create_task(self._read())
        await self.flush()
        return self

    async def __aexit__(self, *_):
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self.writer.close()
        with contextlib.suppress(OSError):  # the server may have closed it first
            await self.writer.wait_closed()

    async def send(self, data):
        """Write bytes; returns when the server has processed them, or has closed the connection for them."""
        self.writer.write(data)
        await self.flush()

    async def flush(self):
        self.writer.write(b"PING\r\n")
        await asyncio.wait_for(self._pongs.get(), 10)

    async def answer(self, subject, make):
        """Subscribe to ``subject``; every request is answered with the bytes of ``make(reply_subject)``."""
        self._answer = make
        await self.send(b"SUB %b 1\r\n" % subject.encode())

    async def _read(self):
        try:
            while line := await self.reader.readline():
                verb, *fields = line.strip().split(b" ")
                if verb == b"PONG":
                    self._pongs.put_nowait(True)
                elif verb == b"PING":
                    self.writer.write(b"PONG\r\n")
                elif verb == b"-ERR":
                    self.errors.append(line)
                elif verb in (b"MSG", b"HMSG"):
                    await self.reader.readexactly(int(fields[-1]) + 2)
                    has_reply = len(fields) == (4 if verb == b"MSG" else 5)
                    if self._answer is not None and has_reply:
                        self.writer.write(self._answer(fields[2]))
        except OSError:
            pass
        finally:
            self.closed = True
            self._pongs.put_nowait(False)


def pub(subject, payload=b"", reply=b""):
    """A PUB command, of bytes that nobody has checked."""
    return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(payload), payload)


def hpub(subject, block, payload=b"", reply=b""):
    """An HPUB command, of bytes that nobody has checked."""
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (
        subject,
        reply,
        len(block),
        len(block) + len(payload),
        block,
        payload,
    )
