"""All streams of one bus: their subjects, and what happens when a peer, or NATS, goes away."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from mesh import headers
from mesh.bus import Bus, Subscription
from mesh.defaults import FIRST_CREDIT
from mesh.errors import BadReply, BusUnavailable, InstanceLost, MeshError, StreamBroken
from mesh.streams import frames
from mesh.streams.flow_control import Pool
from mesh.streams.stream import Stream
from mesh.subjects import new_id
from mesh.tasks import keep

PROBE_S = 1.0
"""Every so often one stream of each peer process sends a credit: NATS answers that nobody listens when it has died."""
KEEPALIVE_S = 10.0
"""A reader says at least this often that it is there."""
FRAME_OVERHEAD = 256
"""Bytes of a message set aside for a frame's header block."""
STALLED_S = 35.0
"""A writer that waits for credit and hears nothing for so long gives up; more than three keepalives."""

_log = logging.getLogger("mesh.streams")


class Streams:
    """Opens streams on ``bus`` and keeps watch over them.

    A caller's end listens on a token of its inbox; an instance's end on ``mesh.stream.<service>.<instance>.<id>``,
    which `start` subscribes to.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._pool = Pool()
        self._open: dict[bytes, Stream] = {}  # by own subject
        self._prefix = bus.subjects.stream(bus.service, bus.instance, "").encode()
        self._subscription: Subscription | None = None
        self._watching: asyncio.Task[None] | None = None
        bus.on_connection(self._connection)
        bus.on_stream(self.adopt, self.orphan)

    def __len__(self) -> int:
        return len(self._open)

    async def start(self) -> None:
        """Listen for frames towards this instance."""
        subjects, bus = self._bus.subjects, self._bus
        self._subscription = await bus.subscribe(subjects.stream(bus.service, bus.instance, "*"), self._receive)

    async def aclose(self) -> None:
        """Break whatever is open and stop listening."""
        for stream in list(self._open.values()):
            stream.abort(StreamBroken("the other end is stopping", executed="unknown"))
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None
        if self._subscription is not None:
            await self._bus.unsubscribe(self._subscription)

    # -- opening

    def answer(self, caller: bytes, credit: int, *, reads: bool, writes: bool) -> Stream:
        """An instance's end towards a caller's inbox; ``credit`` is what the caller gave with its request."""
        own, window = self._prefix + new_id().encode(), self._pool.take()
        return self._register(
            Stream(self, own, caller, credit=credit, granted=window, window=window, reads=reads, writes=writes)
        )

    def call(self) -> Stream:
        """A caller's end with both directions; whoever answers on `Stream.own` names the ``peer`` to set."""
        own = self._bus.requests.new_reply()
        stream = Stream(self, own, b"", credit=0, granted=FIRST_CREDIT, window=self._pool.take())
        self._bus.requests.route(own, stream.deliver)
        return self._register(stream)

    def adopt(self, own: bytes, block: bytes) -> Stream | None:
        """The caller's end for a reply, on ``own``, whose body follows as a stream; None for any other reply.

        Raises `BadReply` where the stream would lead out of the mesh's streams.
        """
        peer = headers.find(headers.decode(block), headers.STREAM)
        if peer is None:
            return None
        if not self._bus.subjects.is_stream(peer):
            raise BadReply(f"the stream would go to {peer[:80]!r}")
        window = self._pool.take()
        stream = Stream(self, own, peer, credit=0, granted=FIRST_CREDIT, window=window, writes=False)
        return self._register(stream)

    def _register(self, stream: Stream) -> Stream:
        self._open[stream.own] = stream
        if self._watching is None:
            self._watching = keep(self._watch, "streams")
        return stream

    def forget(self, stream: Stream) -> None:
        """A stream is over."""
        if self._open.pop(stream.own, None) is not None:
            self._pool.give(stream.window)
            self._bus.requests.close_stream(stream.own)
            if stream.on_over is not None:
                stream.on_over()

    # -- what streams send

    def send(self, stream: Stream, block: bytes, payload: bytes) -> None:
        """Send a frame of ``stream``; where that is impossible the stream breaks."""
        try:
            self._bus.publish(stream.peer, payload, block, stream.own)
        except MeshError as error:
            stream.fail(error)
            if self._bus.connected and stream.peer:  # it waits for what could not be sent
                self._refuse(stream.peer)

    @property
    def largest(self) -> int:
        """Bytes of a frame's payload that the server takes beside its headers."""
        return self._bus.max_payload - FRAME_OVERHEAD

    async def writable(self) -> None:
        """Return when NATS has taken most of what was sent: nobody's messages wait behind a pile of chunks."""
        await self._bus.writable()

    # -- what comes

    def _receive(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        stream = self._open.get(subject)
        if stream is not None:
            stream.deliver(block, payload)
        else:
            self.orphan(reply, block)

    def orphan(self, reply: bytes, block: bytes) -> None:
        """A message for a stream that is over: whoever still sends frames is told to stop."""
        if reply and frames.is_frame(block) and self._bus.subjects.is_stream(reply):
            self._refuse(reply)

    def _refuse(self, peer: bytes) -> None:
        try:
            self._bus.publish(peer, _OVER, frames.block(1, frames.ABORT))
        except MeshError as error:
            _log.debug("not told that a stream is over: %s", error)

    # -- peers that go away

    def gone(self, stream: Stream) -> None:
        """Nobody listens at the other end of ``stream``: its process is gone, and all streams with it."""
        process = _process(stream.peer)
        if process is not None:
            self.fail_prefix(process)
        else:
            stream.fail(InstanceLost("the other end died in the middle of a stream"))

    def fail_prefix(self, prefix: bytes) -> None:
        """Break the streams to peers below ``prefix``."""
        for stream in list(self._open.values()):
            if stream.peer.startswith(prefix):
                who = stream.peer.decode().split(".")
                stream.fail(InstanceLost(f"{'.'.join(who[2:4])} died in the middle of a stream"))

    def _connection(self, connected: bool) -> None:
        if not connected:
            for stream in list(self._open.values()):
                stream.fail(BusUnavailable("the connection to NATS was lost", executed="unknown"))

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while self._open:
            await asyncio.sleep(PROBE_S)
            now, probed = loop.time(), set[bytes]()
            for stream in list(self._open.values()):
                if not stream.peer:
                    continue
                if stream.waits and now - stream.heard > STALLED_S:
                    stream.abort(StreamBroken(f"the reader took nothing for {STALLED_S:g} s", executed="unknown"))
                elif stream.expects:
                    process = _process(stream.peer) or stream.peer
                    if process not in probed or now - stream.credited > KEEPALIVE_S:
                        probed.add(process)
                        stream.give_credit()
        self._watching = None


def _process(peer: bytes) -> bytes | None:
    """What the subjects of all streams of the peer's process begin with; None where a subject speaks only for itself.

    A caller chooses its reply subject: a short one must not speak for the streams of other callers. A whole one has
    the random token of its inbox.
    """
    tokens = peer.split(b".")
    whole = len(tokens) >= (5 if tokens[1:2] == [b"stream"] else 6)
    return peer[: peer.rindex(b".") + 1] if whole else None


_OVER = msgspec.json.encode(StreamBroken("the stream is over", executed="unknown").problem())
