"""A call whose request does not fit in one message: it is accepted, its body goes out, then comes the answer."""

from __future__ import annotations

import asyncio
from typing import Any

from mesh import headers
from mesh.bus import Reply
from mesh.errors import BadReply, DeadlineExceeded, MeshError, NoResponders
from mesh.streams import Stream
from mesh.subjects import Subjects


class Conversation:
    """The caller's side, from the request message on. Close it whatever happens.

    Wait for `accepted`, write the body to ``stream``, wait for `head`; where ``streamed`` is then True, read what
    follows from ``stream``. The head may come before the body has gone: then nobody wants the rest of it.
    """

    __slots__ = ("_accepted", "_head", "_subjects", "attempts", "instance", "stream", "streamed")

    def __init__(self, stream: Stream, subjects: Subjects, instance: str) -> None:
        self.stream = stream
        self.instance = instance
        self.attempts = 1
        self.streamed = False
        loop = asyncio.get_running_loop()
        self._subjects = subjects
        self._accepted: asyncio.Future[None] = loop.create_future()
        self._head: asyncio.Future[Reply] = loop.create_future()
        stream.listen(message=self._message, broken=self._broken)

    async def accepted(self, timeout: float) -> None:
        """Return when the body may be sent, or when the answer is there already.

        Raises `NoResponders` where nobody got the request, `DeadlineExceeded` after ``timeout`` seconds, or the error
        that broke the stream.
        """
        await self._within(self._accepted, timeout, "nobody took the request before the deadline")

    async def head(self, timeout: float | None = None) -> Reply:
        """The answer. Raises `DeadlineExceeded`, or the error that broke the stream."""
        await self._within(self._head, timeout, "no reply before the deadline")
        return self._head.result()

    @property
    def answered(self) -> bool:
        """Whether `head` would return at once."""
        return self._head.done()

    @property
    def begun(self) -> bool:
        """Whether `accepted` would return, or raise, at once."""
        return self._accepted.done()

    async def when_answered(self) -> None:
        """Return when the answer is there or the stream is broken."""
        await asyncio.wait([self._head])

    def lost(self, error: MeshError) -> None:
        """Whoever waits for its first word gets ``error`` instead: its instance is gone, or may be."""
        self._broken(error)

    def close(self) -> None:
        """Be done with it, whatever state it is in; the instance is told where it has not ended."""
        self.stream.close()
        for future in (self._accepted, self._head):
            if future.done():
                if not future.cancelled():
                    future.exception()  # looked at, so that nobody complains
            else:
                future.cancel()

    # -- from the stream

    def _message(self, block: bytes, payload: bytes) -> None:
        if not payload and block.startswith(headers.NO_RESPONDERS):
            self._broken(NoResponders("nobody listens on the subject"))
            return
        pairs = headers.decode(block)
        peer = headers.find(pairs, headers.STREAM)
        if peer is not None and not self._subjects.is_stream(peer):
            self._broken(BadReply(f"the stream would go to {peer[:80]!r}"))
            return
        if headers.find(pairs, headers.STATUS) is None:
            if peer is not None and not self._accepted.done():
                self._meet(peer, pairs)
                self._accepted.set_result(None)
            return
        if self._head.done():
            return
        if peer is not None:
            self.streamed = True
            self._meet(peer, pairs)
        else:
            self.stream.end_reading()
        self._head.set_result(Reply(block, payload))
        if not self._accepted.done():
            self._accepted.set_result(None)

    def _meet(self, peer: bytes, pairs: headers.Pairs) -> None:
        credit = headers.find(pairs, headers.CREDIT)
        self.stream.connect(peer, int(credit) if credit and credit.isdigit() and len(credit) < 10 else 0)

    def _broken(self, error: MeshError) -> None:
        for future in (self._accepted, self._head):
            if not future.done():
                future.set_exception(error)

    @staticmethod
    async def _within(future: asyncio.Future[Any], timeout: float | None, late: str) -> None:
        done, _ = await asyncio.wait([future], timeout=timeout)
        if not done:
            raise DeadlineExceeded(late)
        future.result()
