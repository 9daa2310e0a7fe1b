"""The live instances by service and id, and what can be asked of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mesh.messages import State
from mesh.registry.content_pool import ContentPool
from mesh.registry.instance_records import (
    AnnouncedContent,
    ClaimedRoutes,
    Instance,
    earliest_claim_times,
    route_label,
)


class InstanceTable:
    """The live instances, and the content that they share. The rules are in `Registry`."""

    def __init__(self) -> None:
        self._live: dict[str, dict[str, Instance]] = {}
        self._count = 0
        self._content_pool = ContentPool()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Instance]:
        for siblings in self._live.values():
            yield from siblings.values()

    def get(self, service: str, id: str) -> Instance | None:
        """The live instance, or None."""
        siblings = self._live.get(service)
        return None if siblings is None else siblings.get(id)

    def instances(self, service: str | None = None) -> list[Instance]:
        """The live instances of one service, or all of them."""
        return list(self) if service is None else list(self._live.get(service, {}).values())

    def services(self) -> list[str]:
        """The services with a live instance, sorted."""
        return sorted(self._live)

    def content(self, service: str) -> list[AnnouncedContent]:
        """What the live instances of ``service`` announce: each content once."""
        distinct = {id(instance.content): instance.content for instance in self._live.get(service, {}).values()}
        return list(distinct.values())

    def claimed_routes(self, service: str) -> list[ClaimedRoutes]:
        """The routes that the live instances of ``service`` announce, each content once, with the claim times.

        A route has the earliest claim time that an instance announces for it.
        """
        claims: dict[int, tuple[AnnouncedContent, set[tuple[int, ...]]]] = {}
        content: AnnouncedContent | None = None
        claimed: tuple[int, ...] = ()
        for instance in self._live.get(service, {}).values():
            # Of thousands of instances nearly all say the same as the one before.
            if instance.content is not content or instance.claimed != claimed:
                content, claimed = instance.content, instance.claimed
                claims.setdefault(id(content), (content, set()))[1].add(claimed)
        return [
            ClaimedRoutes(each.revision, each.routes, earliest_claim_times(times)) for each, times in claims.values()
        ]

    def converged_state(self) -> dict[tuple[str, str], tuple[AnnouncedContent, State, int]]:
        """Content, state and highest ``seq`` of every instance: equal for receivers of the same messages."""
        return {(i.service, i.id): (i.content, i.state, i.seq) for i in self}

    def snapshot(self) -> list[dict[str, Any]]:
        """A JSON-ready row per instance, sorted by service and id."""
        return [
            {
                "service": i.service,
                "instance": i.id,
                "version": i.version,
                "revision": i.revision,
                "state": i.state,
                "suspect": i.suspect,
                "foreign": i.foreign,
                "description": i.description,
                "metadata": dict(i.metadata),
                "started": i.started,
                "heartbeat_ms": i.heartbeat_ms,
                "seq": i.seq,
                "inflight": i.inflight,
                "capacity": i.capacity,
                "lag_ms": i.lag_ms,
                "seen": i.seen,
                "routes": sorted(map(route_label, i.routes)),
            }
            for i in sorted(self, key=lambda i: (i.service, i.id))
        ]

    def _add(self, instance: Instance) -> None:
        self._live.setdefault(instance.service, {})[instance.id] = instance
        self._count += 1

    def _remove(self, instance: Instance) -> None:
        siblings = self._live[instance.service]
        del siblings[instance.id]
        if not siblings:
            del self._live[instance.service]
        self._count -= 1
        self._content_pool.release(instance.content)
        instance.live = False
