"""Machines whose clocks differ: an hour on the wall, days of uptime. Health and requests do not notice."""

import asyncio
import json
import os
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from tests.conditions import eventually
from tests.processes import answers, gateway_on, run

HOUR = 3600
DAYS = 9 * 24 * HOUR
REPOSITORY = str(Path(__file__).parents[2])

# Loaded by the interpreter before anything else: the process lives on a machine with other clocks.
SHIFT = """
import datetime
import os
import time

WALL, BOOT = float(os.environ["SHIFT_WALL_S"]), float(os.environ["SHIFT_BOOT_S"])
_time, _time_ns, _get, _get_ns = time.time, time.time_ns, time.clock_gettime, time.clock_gettime_ns
SHIFTS = {time.CLOCK_REALTIME: WALL, time.CLOCK_BOOTTIME: BOOT}

time.time = lambda: _time() + WALL
time.time_ns = lambda: _time_ns() + int(WALL * 10**9)
time.clock_gettime = lambda clock: _get(clock) + SHIFTS.get(clock, 0)
time.clock_gettime_ns = lambda clock: _get_ns(clock) + int(SHIFTS.get(clock, 0) * 10**9)
_datetime = datetime.datetime


class Shifted(_datetime):
    @classmethod
    def now(cls, tz=None):
        return _datetime.now(tz) + datetime.timedelta(seconds=WALL)

    @classmethod
    def utcnow(cls):
        return _datetime.utcnow() + datetime.timedelta(seconds=WALL)


datetime.datetime = Shifted
"""

SERVICE = """
import time
from datetime import UTC, datetime

from mesh import Context, Service

service = Service("NAME")


@service.get("/NAME/clocks", timeout=1.0)
async def clocks(ctx: Context) -> dict[str, float]:
    return {
        "wall": time.time(),
        "date": datetime.now(UTC).timestamp(),
        "boot": time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1e9,
        "remaining": ctx.remaining,
    }


@service.get("/NAME/other", timeout=1.0)
async def other(ctx: Context) -> dict[str, float]:
    name = {"early": "late", "late": "early"}["NAME"]
    return await ctx.call(name, "clocks", returns=dict[str, float])
"""


async def test_clocks_that_differ_change_neither_health_nor_requests(tmp_path, nats_url, prefix):
    (tmp_path / "shift").mkdir()
    (tmp_path / "shift" / "sitecustomize.py").write_text(SHIFT)
    for name in ("early", "late"):
        (tmp_path / f"{name}.py").write_text(SERVICE.replace("NAME", name))
    env = {"NATS_URL": nats_url, "MESH_PREFIX": prefix, "MESH_WINDOW_MS": "0", "MESH_HEARTBEAT_MS": "250"}

    def elsewhere(wall, boot):
        path = os.pathsep.join((str(tmp_path / "shift"), REPOSITORY))
        return {**env, "PYTHONPATH": path, "SHIFT_WALL_S": str(wall), "SHIFT_BOOT_S": str(boot)}

    async with (
        gateway_on(tmp_path, env) as (_, http),
        gateway_on(tmp_path, elsewhere(HOUR, 3 * DAYS)) as (_, http_ahead),
        run("tail", "--json", cwd=tmp_path, env=elsewhere(-HOUR, 0)) as tail,
        run("run", "early.py", cwd=tmp_path, env=elsewhere(-HOUR, DAYS)),
        run("run", "late.py", cwd=tmp_path, env=elsewhere(HOUR, 2 * DAYS)),
    ):
        shifts = {"early": (-HOUR, DAYS), "late": (HOUR, 2 * DAYS)}
        for client in (http, http_ahead):
            for name in shifts:
                await answers(client, f"/{name}/other", 200)
        seen = Counter()
        over = asyncio.get_running_loop().time() + 2.5  # many times what makes somebody suspect or lost
        while asyncio.get_running_loop().time() < over:
            for client in (http, http_ahead):
                for name, (wall, boot) in shifts.items():
                    response = await client.get(f"/{name}/clocks")
                    seen[response.status_code] += 1
                    clocks = response.json()
                    # The clocks are what they were made, and the deadline is what the route says, nearly whole.
                    assert abs(clocks["wall"] - time.time() - wall) < 60
                    assert abs(clocks["date"] - datetime.now(UTC).timestamp() - wall) < 60
                    assert abs(clocks["boot"] - time.clock_gettime(time.CLOCK_BOOTTIME) - boot) < 60
                    assert 0.5 < clocks["remaining"] <= 1.0
                    seen[(await client.get(f"/{name}/other")).status_code] += 1
            await asyncio.sleep(0.02)
        assert set(seen) == {200}
        for client in (http, http_ahead):
            services = (await client.get("/health")).json()["services"]
            assert {name: services[name]["ready"] for name in (*shifts, "gateway")} == {
                "early": 1,
                "late": 1,
                "gateway": 2,
            }
        await eventually(lambda: len(tail.lines) >= 4)
        kinds = Counter(json.loads(line)["kind"] for line in tail.lines)
        assert set(kinds) <= {"present", "joined", "state", "changed"}
