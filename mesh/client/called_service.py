"""What one caller keeps for each service that it calls."""

from __future__ import annotations

from mesh.balancer import Balancer, RetryBudget


class CalledService:
    """One service as one caller sees it: its instances, and the budget for retries."""

    __slots__ = ("balancer", "budget", "name")

    def __init__(self, name: str, balancer: Balancer) -> None:
        self.name = name
        self.balancer = balancer
        self.budget = RetryBudget()
