"""All streams of one bus: their subjects, their peers, and the loss of a peer or of NATS."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from mesh import headers
from mesh.bus import Bus, Subscription
from mesh.defaults import FIRST_CREDIT
from mesh.errors import BadReply, BusUnavailable, InstanceLost, MeshError, StreamBroken
from mesh.streams import frames
from mesh.streams.flow_control import WindowPool
from mesh.streams.stream import Stream, StreamState
from mesh.subjects import new_id
from mesh.tasks import keep

PROBE_S = 1.0
"""Seconds between two credits to each peer process on one of its streams: NATS says so if the process has died."""
KEEPALIVE_S = 10.0
"""Seconds after which a reader sends a credit on each of its streams, to show that it lives."""
FRAME_OVERHEAD = 256
"""Bytes of a message that are set aside for a frame's header block."""
WRITE_TIMEOUT_S = 35.0
"""Seconds without a frame after which a writer without credit gives up; more than three keepalives."""

_log = logging.getLogger("mesh.streams")


class Streams:
    """Opens the streams of one bus, gives each message to its stream, and watches over peers.

    A caller's end listens on a token of the bus's inbox; an instance's end on
    ``mesh.stream.<service>.<instance>.<id>``, to which `start` subscribes.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._windows = WindowPool()
        self._open: dict[bytes, Stream] = {}  # by their own subjects
        self._prefix = bus.subjects.stream(bus.service, bus.instance, "").encode()
        self._subscription: Subscription | None = None
        self._watching: asyncio.Task[None] | None = None
        bus.on_connection(self._connection_changed)
        bus.on_stream(self.adopt, self.refuse_orphan)

    def __len__(self) -> int:
        return len(self._open)

    async def start(self) -> None:
        """Listen for frames to this instance."""
        subjects, bus = self._bus.subjects, self._bus
        self._subscription = await bus.subscribe(subjects.stream(bus.service, bus.instance, "*"), self._receive)

    async def aclose(self) -> None:
        """Abort all streams and stop listening."""
        for stream in list(self._open.values()):
            stream.abort(StreamBroken("the other end is stopping", executed="unknown"))
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None
        if self._subscription is not None:
            await self._bus.unsubscribe(self._subscription)

    # -- opening

    def accept(self, caller: bytes, credit: int, *, reads: bool = True) -> Stream:
        """Make the instance's end of a stream.

        caller: the reply subject of the request.
        credit: bytes that the caller takes at first, as its request says.
        reads: False if the caller sends no frames but credits: only the response is a stream.
        """
        window = self._windows.take()
        stream = Stream(
            self,
            own_subject=self._prefix + new_id().encode(),
            peer_subject=caller,
            credit=credit,
            granted=window,
            window=window,
            state=StreamState.OPEN if reads else StreamState.WRITE_ONLY,
        )
        return self._register(stream)

    def open(self) -> Stream:
        """Make the caller's end of a stream in both directions. It waits for `Stream.connect`."""
        own_subject = self._bus.requests.new_reply()
        stream = Stream(
            self,
            own_subject=own_subject,
            peer_subject=b"",
            credit=0,
            granted=FIRST_CREDIT,
            window=self._windows.take(),
        )
        self._bus.requests.listen(own_subject, stream.deliver)
        return self._register(stream)

    def adopt(self, own_subject: bytes, block: bytes) -> Stream | None:
        """Make the caller's end for a reply on ``own_subject`` whose body follows as a stream; None for other replies.

        Raises `BadReply` if frames would go to a subject that is not for streams.
        """
        peer_subject = headers.find(headers.decode(block), headers.STREAM)
        if peer_subject is None:
            return None
        if not self._bus.subjects.is_stream(peer_subject):
            raise BadReply(f"the stream would go to {peer_subject[:80]!r}")
        stream = Stream(
            self,
            own_subject=own_subject,
            peer_subject=peer_subject,
            credit=0,
            granted=FIRST_CREDIT,
            window=self._windows.take(),
            state=StreamState.READ_ONLY,
        )
        return self._register(stream)

    def _register(self, stream: Stream) -> Stream:
        self._open[stream.own_subject] = stream
        if self._watching is None:
            self._watching = keep(self._watch, "streams")
        return stream

    # -- for streams: see the Multiplexer protocol of `mesh.streams.stream`

    def send(self, stream: Stream, block: bytes, payload: bytes) -> None:
        """Send a frame to the stream's peer. If that is impossible, the stream breaks."""
        try:
            self._bus.publish(stream.peer_subject, payload, block, stream.own_subject)
        except MeshError as error:
            stream.fail(error)
            if self._bus.connected and stream.peer_subject:  # it waits for what could not be sent
                self._refuse(stream.peer_subject)

    @property
    def largest_payload(self) -> int:
        """Bytes of the largest payload of a frame that the NATS server takes."""
        return self._bus.max_payload - FRAME_OVERHEAD

    async def writable(self) -> None:
        """Return when NATS has taken most of what was sent, so that other messages do not wait behind many frames."""
        await self._bus.writable()

    def remove(self, stream: Stream) -> None:
        """Forget a stream that is over."""
        if self._open.pop(stream.own_subject, None) is not None:
            self._windows.give_back(stream.window)
            self._bus.requests.stop_listening(stream.own_subject)

    def fail_process(self, stream: Stream) -> None:
        """Break all streams with the process of the stream's peer: NATS says that it does not listen any more."""
        process = _process(stream.peer_subject)
        if process is not None:
            self.fail_prefix(process)
        else:
            stream.fail(InstanceLost("the other end died in the middle of a stream"))

    # -- incoming messages

    def _receive(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        stream = self._open.get(subject)
        if stream is not None:
            stream.deliver(block, payload)
        else:
            self.refuse_orphan(reply, block)

    def refuse_orphan(self, reply: bytes, block: bytes) -> None:
        """Tell the sender of a frame for a stream that is over to stop."""
        if reply and frames.is_frame(block) and self._bus.subjects.is_stream(reply):
            self._refuse(reply)

    def _refuse(self, peer_subject: bytes) -> None:
        try:
            self._bus.publish(peer_subject, _IS_OVER, frames.block(1, frames.ABORT))
        except MeshError as error:
            _log.debug("not told that a stream is over: %s", error)

    # -- losses

    def fail_prefix(self, prefix: bytes) -> None:
        """Break the streams to peers below ``prefix``."""
        for stream in list(self._open.values()):
            if stream.peer_subject.startswith(prefix):
                who = stream.peer_subject.decode().split(".")
                stream.fail(InstanceLost(f"{'.'.join(who[2:4])} died in the middle of a stream"))

    def _connection_changed(self, connected: bool) -> None:
        if not connected:
            for stream in list(self._open.values()):
                stream.fail(BusUnavailable("the connection to NATS was lost", executed="unknown"))

    async def _watch(self) -> None:
        """Find peers that died, and readers that stopped to read."""
        loop = asyncio.get_running_loop()
        while self._open:
            await asyncio.sleep(PROBE_S)
            now, probed = loop.time(), set[bytes]()
            for stream in list(self._open.values()):
                if not stream.peer_subject:
                    continue
                if stream.is_out_of_credit and now - stream.last_frame_at > WRITE_TIMEOUT_S:
                    why = f"the reader took nothing for {WRITE_TIMEOUT_S:g} s"
                    stream.abort(StreamBroken(why, executed="unknown"))
                elif stream.is_readable:
                    process = _process(stream.peer_subject) or stream.peer_subject
                    if process not in probed or now - stream.last_credit_at > KEEPALIVE_S:
                        probed.add(process)
                        stream.give_credit()
        self._watching = None


def _process(peer_subject: bytes) -> bytes | None:
    """The prefix of the subjects of all streams with the peer's process; None if the subject has no such prefix.

    A caller chooses its reply subject: a short one must not break the streams of other callers. A full one has the
    random token of its inbox::

        mesh.stream.files.I1.x7                ->  mesh.stream.files.I1.
        mesh.inbox.gateway.G1.a1b2.9f3c        ->  mesh.inbox.gateway.G1.a1b2.
        mesh.inbox.short                       ->  None
    """
    tokens = peer_subject.split(b".")
    is_full = len(tokens) >= (5 if tokens[1:2] == [b"stream"] else 6)
    return peer_subject[: peer_subject.rindex(b".") + 1] if is_full else None


_IS_OVER = msgspec.json.encode(StreamBroken("the stream is over", executed="unknown").problem())
