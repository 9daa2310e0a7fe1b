"""Two programs under one name share each other's requests: a warning says so at the start of the second."""

import logging

from mesh import Service
from mesh.service.duplicate_names import warn_of_duplicates


def notes(version="1.0.0", path="/notes"):
    service = Service("notes", version=version)

    @service.get(path)
    async def read() -> str:
        return version

    return service


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "mesh.service" and r.levelno == logging.WARNING]


async def test_another_program_under_the_name_is_named(mesh, caplog):
    other = await mesh.start(notes(path="/notes/all"))
    mine = await mesh.start(notes())
    await warn_of_duplicates(mine.bus, "")
    (text,) = warnings(caplog)
    assert text.startswith(f"another program is called notes too: notes.{other.id} (1.0.0) has other routes")
    assert f"'mesh drain notes.{other.id}'" in text


async def test_another_version_too(mesh, caplog):
    other = await mesh.start(notes("0.0.1"))
    mine = await mesh.start(notes())
    await warn_of_duplicates(mine.bus, "")
    assert f"notes.{other.id} (0.0.1)" in warnings(caplog)[0]


async def test_more_of_the_same_and_the_one_that_is_replaced_are_none(mesh, caplog):
    await mesh.start(notes())
    await mesh.start(Service("others"))
    before = await mesh.start(notes(path="/notes/all"))
    gone = await mesh.start(notes("0.0.1"))
    mine = await mesh.start(notes())
    await gone.drain()
    await warn_of_duplicates(mine.bus, before.id)
    assert warnings(caplog) == []
