"""What the commands say where nothing is."""

import pytest

from mesh import Service
from tests.cli.builders import users


@pytest.mark.parametrize(
    ("command", "empty"),
    [
        (["ls"], []),
        (["routes"], {"routes": [], "conflicts": [], "rejected": []}),
        (["stats"], []),
        (["tail", "--once", "--text"], None),
        (["tail", "--once"], None),
    ],
)
async def test_an_empty_mesh_is_said_to_be_empty(shell, nats_url, command, empty):
    where = {"MESH_PREFIX": "nobody"}
    done = await shell(*command, **where)
    assert done.code == 0
    assert done.out == ""
    assert f"nothing has announced itself under the prefix 'nobody' on {nats_url}" in done.err
    assert "\nhint: NATS_URL and MESH_PREFIX say where to look; 'mesh run'" in done.err
    assert "\\n" not in done.err
    if empty is not None:
        done = await shell(*command, "--json", **where)
        assert (done.code, done.json) == (0, empty)


async def test_services_without_routes_or_endpoints(shell, mesh):
    await mesh.start(Service("silent"))
    done = await shell("routes", "--service", "silent")
    assert (done.code, done.out) == (0, "")
    assert "no HTTP route of silent is served; 'mesh info silent' shows" in done.err
    done = await shell("stats", "silent")
    assert (done.code, done.out) == (0, "")
    assert "no endpoint of silent has figures" in done.err


async def test_tail_names_the_nearest_service(shell, mesh):
    await mesh.start(users())
    done = await shell("tail", "--service", "user", "--once")
    assert (done.code, done.out) == (1, "")
    assert "error: no service 'user'. Did you mean 'users'?" in done.err
    done = await shell("tail", "--service", "users", "--once", "--text")
    assert done.code == 0
    assert "1 instance of 1 service\n" in done.err
    running = await shell.start("tail", "--service", "user", "--service", "users", "--json")
    await running.event("present", service="users")
    assert await running.end() == 0
    assert b"note: no service 'user'. Did you mean 'users'?" in running.errors
