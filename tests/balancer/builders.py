"""Instances as the balancer sees them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from mesh.balancer import Balancer, Outcome, Peer


@dataclass
class Seen:
    id: str
    state: str = "ready"
    revision: str = "r1"
    suspect: bool = False
    foreign: bool = False
    bundles: bool = False
    service: str = "users"


def balance(*instances: Seen | str, seed: int = 1) -> Balancer:
    balancer = Balancer("users", random.Random(seed))
    sync(balancer, [Seen(i) if isinstance(i, str) else i for i in instances])
    return balancer


def sync(balancer: Balancer, instances: Iterable[Seen]) -> None:
    """Have the balancer know these instances and no others."""
    live = {instance.id: instance for instance in instances}
    for id in [peer.id for peer in balancer.peers() if peer.id not in live]:
        balancer.remove(id)
    for instance in live.values():
        balancer.update(instance)


def peer(balancer: Balancer, id: str) -> Peer:
    return next(p for p in balancer.peers() if p.id == id)


def call(balancer: Balancer, peer: Peer, outcome: Outcome, now: float = 0.0) -> None:
    balancer.started(peer)
    balancer.finished(peer, outcome, now)


def fail(balancer: Balancer, peer: Peer, now: float = 0.0, times: int = 5) -> None:
    for _ in range(times):
        call(balancer, peer, Outcome.TIMEOUT, now)
