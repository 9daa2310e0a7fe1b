"""The live instances by service and id, and what can be asked of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mesh.messages import State
from mesh.registry.instance_records import Announced, Content, Instance, earliest, labels
from mesh.registry.shared_content import Contents


class Table:
    """Where the registry keeps live instances and the contents they share. It knows no rules."""

    def __init__(self) -> None:
        self._live: dict[str, dict[str, Instance]] = {}
        self._count = 0
        self._contents = Contents()

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

    def contents(self, service: str) -> list[Content]:
        """What the live instances of ``service`` announce, each content once."""
        distinct: dict[int, Content] = {}
        for instance in self._live.get(service, {}).values():
            distinct[id(instance.content)] = instance.content
        return list(distinct.values())

    def announced(self, service: str) -> list[Announced]:
        """The same with the claims to the routes: of several instances, the earliest moment of each route."""
        claims: dict[int, tuple[Content, set[tuple[int, ...]]]] = {}
        content: Content | None = None
        claimed: tuple[int, ...] = ()
        for instance in self._live.get(service, {}).values():
            # Of thousands of instances nearly all say the same as the one before.
            if instance.content is not content or instance.claimed != claimed:
                content, claimed = instance.content, instance.claimed
                claims.setdefault(id(content), (content, set()))[1].add(claimed)
        return [Announced(each.revision, each.routes, earliest(found)) for each, found in claims.values()]

    def view(self) -> dict[tuple[str, str], tuple[Content, State, int]]:
        """Content, state and highest ``seq`` of every instance: what two receivers agree on in the end."""
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
                "routes": sorted(labels(i.content)),
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
        self._contents.release(instance.content)
        instance.live = False
