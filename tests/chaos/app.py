"""The service under test: it writes down every request that it runs, when, and where.

One write to a file opened with O_APPEND per execution: lines of several processes never mix, and a process that is
killed the moment after has written its line all the same.
"""

from __future__ import annotations

import asyncio
import os
import time

from mesh import Context, Service

RECORD = "CHAOS_RECORD"

service = Service(os.environ.get("CHAOS_SERVICE", "work"))
_record = os.open(os.environ[RECORD], os.O_WRONLY | os.O_APPEND | os.O_CREAT) if RECORD in os.environ else -1


def _executed(ctx: Context, method: str) -> None:
    os.write(_record, f"{ctx.request_id} {time.monotonic():.6f} {ctx.instance} {method}\n".encode())


async def _work(ctx: Context, method: str, ms: float) -> dict[str, str]:
    _executed(ctx, method)
    if ms:
        await asyncio.sleep(ms / 1000)
    return {"instance": ctx.instance}


@service.get("/task/{id}")
async def get_work(id: str, ctx: Context, ms: float = 0) -> dict[str, str]:
    return await _work(ctx, "GET", ms)


@service.post("/task")
async def post_work(ctx: Context, ms: float = 0) -> dict[str, str]:
    return await _work(ctx, "POST", ms)
