"""Instances as the balancer sees them."""

from __future__ import annotations

import random
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
    balancer.sync([Seen(i) if isinstance(i, str) else i for i in instances])
    return balancer


def peer(balancer: Balancer, id: str) -> Peer:
    return next(p for p in balancer.peers() if p.id == id)


def call(balancer: Balancer, peer: Peer, outcome: Outcome, now: float = 0.0) -> None:
    balancer.started(peer)
    balancer.finished(peer, outcome, now)


def fail(balancer: Balancer, peer: Peer, now: float = 0.0, times: int = 5) -> None:
    for _ in range(times):
        call(balancer, peer, Outcome.TIMEOUT, now)
