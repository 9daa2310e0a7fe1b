"""The meaning of an attempt's error: for a retry, for the balancer, and for the caller."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.balancer import Outcome, Peer, RetryReason
from mesh.bus import Bus
from mesh.errors import (
    BadReply,
    BusUnavailable,
    DeadlineExceeded,
    InstanceLost,
    MeshError,
    NoInstances,
    NoResponders,
    Starting,
)
from mesh.watcher import Watcher

BLAMED_AFTER_S = 1.0
"""An attempt that had less time than this and did not end says nothing about its instance."""


def retry_reason(error: MeshError) -> RetryReason | None:
    """Why a retry may help after this error; None if it cannot."""
    if isinstance(error, NoResponders):
        return RetryReason.NO_RESPONDERS
    if isinstance(error, DeadlineExceeded):
        return RetryReason.TIMEOUT
    if isinstance(error, InstanceLost):
        return RetryReason.INSTANCE_LOST
    return RetryReason.CONNECTION_LOST if isinstance(error, BusUnavailable) else None


def outcome_of(error: MeshError, timeout: float) -> Outcome:
    """The outcome for the balancer of an attempt that ended with ``error``.

    timeout: seconds that the attempt had.
    """
    if isinstance(error, NoResponders):
        return Outcome.NO_RESPONDERS
    if isinstance(error, DeadlineExceeded):
        return Outcome.TIMEOUT if timeout >= BLAMED_AFTER_S else Outcome.SHORT_TIMEOUT
    if isinstance(error, BadReply):
        return Outcome.BAD_REPLY
    # A lost connection of ours says nothing about the instance.
    return Outcome.LOST if isinstance(error, InstanceLost) else Outcome.CANCELLED


def error_for_caller(earlier: MeshError | None, error: MeshError) -> MeshError:
    """The error that a call ends with if there is no retry after ``error``.

    It is the last one, unless that one says that nothing ran and an attempt before it may have run.
    """
    return error if earlier is None or earlier.executed == "no" or error.executed != "no" else earlier


def deadline_passed() -> DeadlineExceeded:
    """The error of a call whose deadline passed before an attempt could be sent."""
    return DeadlineExceeded("no instance could be reached before the deadline", executed="no")


def no_instance(bus: Bus, watcher: Watcher, service: str, tried: Sequence[Peer]) -> MeshError:
    """The error that says why there is no instance for a call."""
    if not bus.connected:
        return BusUnavailable(bus.last_error or "not connected to NATS")
    if not watcher.knows(service):
        return Starting("the registry is not synchronised yet")
    if tried:
        return NoResponders(f"none of the instances of {service} that were tried is listening")
    return NoInstances(f"no live instance of {service}")
