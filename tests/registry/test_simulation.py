from __future__ import annotations

from collections import Counter

import pytest

from tests.registry.simulation import OF_RECEIVERS, World


def run(world: World, steps: int, seed: int) -> Counter[str]:
    try:
        for _ in range(steps):
            world.step()
        world.settle()
    except Exception as error:
        error.add_note(f"seed {seed}, at {world.time:.1f} s")
        raise
    return world.seen


@pytest.mark.parametrize("first", range(0, 300, 30))
def test_loss_delay_restarts_partitions_and_stalls(first: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(first, first + 30):
        seen += run(World(seed), 400, seed)
    # The histories are worth something: everything that can happen has happened, and not only once.
    for kind in ("", "back after it was lost", "changed", "state", "suspect", "recovered", "lost", "left", "ask"):
        assert seen[kind] > 5, seen


def test_a_receivers_own_troubles_condemn_nobody() -> None:
    for seed in range(60):
        seen = run(World(seed, OF_RECEIVERS, calm=True), 400, seed)
        assert not seen["lost"], f"seed {seed}"
