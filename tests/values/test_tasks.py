"""Long-lived tasks begin anew when they fail, or have their process end; each failure is in the log."""

import asyncio
import logging

import pytest

from mesh import tasks
from mesh.tasks import keep, vital
from tests.conditions import eventually


async def test_a_task_that_fails_is_logged_and_starts_again(caplog, monkeypatch):
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)
    runs = []

    async def work():
        runs.append(len(runs))
        if len(runs) < 4:
            raise ValueError(f"broken {len(runs)}")

    await asyncio.wait_for(keep(work, "worker"), 5)
    assert len(runs) == 4
    failures = [record for record in caplog.records if record.name == "mesh.tasks"]
    assert [record.exc_info[1].args[0] for record in failures] == ["broken 1", "broken 2", "broken 3"]
    assert "the task 'worker' failed; it starts again in 0.001 s" in failures[0].getMessage()
    assert "in 0.004 s" in failures[2].getMessage()  # later and later


async def test_pauses_are_bounded_and_begin_anew_after_a_sound_time(caplog, monkeypatch):
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(tasks, "LONGEST_PAUSE_S", 0.002)
    loop, runs = asyncio.get_running_loop(), []
    monkeypatch.setattr(tasks, "HEALTHY_S", 0.05)

    async def work():
        runs.append(loop.time())
        if len(runs) == 5:
            await asyncio.sleep(0.06)
        if len(runs) == 6:
            return
        raise ValueError

    await asyncio.wait_for(keep(work, "worker"), 5)
    pauses = [r.getMessage().rpartition(" in ")[2] for r in caplog.records if r.name == "mesh.tasks"]
    assert pauses == ["0.001 s", "0.002 s", "0.002 s", "0.002 s", "0.001 s"]


async def test_cancelling_ends_it_at_work_and_in_a_pause(caplog, monkeypatch):
    async def work():
        await asyncio.sleep(3600)

    async def fail():
        raise ValueError

    for what in (work, fail):
        monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 3600)
        task = keep(what, "worker")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("how", ["fails", "returns", "is cancelled"])
async def test_a_vital_task(caplog, how):
    told = []

    async def work():
        if how == "fails":
            raise ValueError("broken")
        if how == "is cancelled":
            await asyncio.sleep(3600)

    task = vital(work(), "listener", lambda: told.append(True))
    await asyncio.sleep(0)
    if how == "is cancelled":
        task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert told == ([True] if how == "fails" else [])
    critical = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert len(critical) == len(told)
    assert all(record.exc_info for record in critical)
    await eventually(task.done)
