"""Whose process it is when a service has stopped."""

from tests.processes import run_python

PROGRAM = """
import os, signal, sys, threading, time
from functools import partial

import mesh.service.run as module
from mesh import Service

module.end_within = partial(module.end_within, 0.2)
service = Service("one")


@service.on_startup
async def ask_to_stop():
    os.kill(os.getpid(), signal.SIGTERM)


service.run()
time.sleep(1)  # what a program does after it has served
print("cleaned up")
sys.exit(3)
"""


async def test_what_follows_run_takes_as_long_as_it_likes(tmp_path, nats_url, prefix):
    async with run_python(PROGRAM, cwd=tmp_path, env={"NATS_URL": nats_url, "MESH_PREFIX": prefix}) as process:
        await process.line("cleaned up")
        assert await process.child.wait() == 3
