"""A call whose request does not fit in one message: it is accepted, its body goes out, then the reply comes."""

from __future__ import annotations

import asyncio
from typing import Any

from mesh import headers
from mesh.bus import Reply
from mesh.errors import BadReply, DeadlineExceeded, MeshError, NoResponders
from mesh.numbers import parse_count
from mesh.streams import Stream
from mesh.subjects import Subjects


class StreamingCall:
    """The caller's side of such a call, after the request message. Close it, however it ends.

    1. Wait for `accepted`.
    2. Write the body to ``stream``.
    3. Wait for `head`, the reply. If ``streamed`` is True then, read the rest of the response from ``stream``.

    The reply may come before the whole body has gone: the service does not want the rest then.
    """

    __slots__ = ("_accepted", "_head", "_subjects", "attempts", "instance", "stream", "streamed")

    def __init__(self, stream: Stream, subjects: Subjects, instance: str) -> None:
        """instance: the id of the instance that has the request."""
        self.stream = stream
        self.instance = instance
        self.attempts = 1
        self.streamed = False
        loop = asyncio.get_running_loop()
        self._subjects = subjects
        self._accepted: asyncio.Future[None] = loop.create_future()
        self._head: asyncio.Future[Reply] = loop.create_future()
        stream.listen(message=self._message, broken=self.fail)

    async def accepted(self, timeout: float) -> None:
        """Return when the body may be sent, or when the reply is there already.

        timeout: in seconds.
        Raises `NoResponders` if no instance received the request, `DeadlineExceeded` after the timeout, or the error
        that broke the stream.
        """
        await self._within(self._accepted, timeout, "no instance took the request before the deadline")

    async def head(self, timeout: float | None = None) -> Reply:
        """Wait for the reply, or for the message that a streamed response begins with, and return it.

        timeout: in seconds.
        Raises `DeadlineExceeded` after the timeout, or the error that broke the stream.
        """
        await self._within(self._head, timeout, "no reply before the deadline")
        return self._head.result()

    @property
    def answered(self) -> bool:
        """True if `head` would return, or raise, at once."""
        return self._head.done()

    @property
    def begun(self) -> bool:
        """True if `accepted` would return, or raise, at once."""
        return self._accepted.done()

    async def when_answered(self) -> None:
        """Return when the reply is there or the stream is broken."""
        await asyncio.wait([self._head])

    def fail(self, error: MeshError) -> None:
        """End the waits for the instance's first messages with ``error``; those that have ended are left alone."""
        for future in (self._accepted, self._head):
            if not future.done():
                future.set_exception(error)

    def close(self) -> None:
        """End the call in whatever state it is; if it has not ended by itself the instance is told."""
        self.stream.close()
        for future in (self._accepted, self._head):
            if future.done():
                if not future.cancelled():
                    future.exception()  # retrieved, so that asyncio does not log it
            else:
                future.cancel()

    # -- from the stream

    def _message(self, block: bytes, payload: bytes) -> None:
        """A message that is no frame: that the request is accepted, or the reply."""
        if headers.says_no_responders(block, payload):
            self.fail(NoResponders("nobody listens on the subject"))
            return
        pairs = headers.decode(block)
        peer = headers.find(pairs, headers.STREAM)
        if peer is not None and not self._subjects.is_stream(peer):
            self.fail(BadReply(f"the stream would go to {peer[:80]!r}"))
            return
        if headers.find(pairs, headers.STATUS) is None:
            # The head may have come first: a handler that begins its answer before it reads accepts the body later.
            if peer is not None and (not self._accepted.done() or peer == self.stream.peer_subject):
                self._connect(peer, pairs)
                if not self._accepted.done():
                    self._accepted.set_result(None)
            return
        if self._head.done():
            return
        if peer is not None:
            self.streamed = True
            self._connect(peer, pairs)
        else:
            self.stream.end_reading()
        self._head.set_result(Reply(block, payload))
        if not self._accepted.done():
            self._accepted.set_result(None)

    def _connect(self, peer: bytes, pairs: headers.Pairs) -> None:
        """Give the stream the subject of the instance's end, and its credit."""
        credit = headers.find(pairs, headers.CREDIT)
        self.stream.connect(peer, parse_count(credit) or 0)

    @staticmethod
    async def _within(future: asyncio.Future[Any], timeout: float | None, detail: str) -> None:
        done, _ = await asyncio.wait([future], timeout=timeout)
        if not done:
            raise DeadlineExceeded(detail)
        future.result()
