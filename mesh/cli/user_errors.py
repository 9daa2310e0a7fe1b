"""Errors in a user's own code, for every command that runs it: the user's line first, without frames of the mesh.

Frames of click and of Python's own modules are left out too.
"""

from __future__ import annotations

import asyncio
import importlib
import linecache
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

import mesh
from mesh.cli.exit import fail
from mesh.errors import ConfigError, DeclarationError
from mesh.source_files import is_installed, short

_MACHINERY = (
    *(os.path.dirname(str(module.__file__)) + os.sep for module in (mesh, click, asyncio, importlib)),
    *(os.path.join(os.path.dirname(os.__file__), name) for name in ("contextlib.py", "runpy.py", "threading.py")),
    "<frozen ",
    "uvloop/",
)


@contextmanager
def shown(code: int, log_level: str) -> Iterator[None]:
    """Print an exception inside and exit.

    code: the exit code for an exception; wrong declarations and settings exit with 2
    log_level: ``debug`` prints the whole traceback

    An exception without a line of the user's own is raised: it is not a mistake of theirs.
    """
    try:
        yield
    except ConfigError as error:  # of the service's own settings
        fail("\nerror: ".join(error.problems), 2)
    except DeclarationError as error:
        _tell(error, 2, log_level == "debug")
    except (click.ClickException, click.exceptions.Exit):
        raise
    except Exception as error:
        _tell(error, code, log_level == "debug")


def _tell(error: Exception, code: int, whole: bool) -> NoReturn:
    found = traceback.TracebackException.from_exception(error)
    before = _frames(found)
    _trim(found)
    place = _own_line(found)
    declared = isinstance(error, DeclarationError)
    if place is None and not declared:
        raise error
    text = str(error) if declared else _sentence(found)
    lines = [f"{short(place[0])}:{place[1]}: {text}" if place else text]
    lines += _source(found, place)
    if whole:
        lines += ["", *"".join(traceback.format_exception(error)).splitlines()]
    elif not declared:
        if len(found.stack) > 1 or found.__cause__ or found.__context__ or found.exceptions:
            lines += ["", *"".join(found.format()).splitlines()]
        if _frames(found) < before:
            lines += ["", "MESH_LOG_LEVEL=debug shows the whole traceback."]
    fail("\n".join(lines), code)


def _trim(error: traceback.TracebackException) -> None:
    """Remove the frames of other code from an exception and from its causes."""
    error.stack = traceback.StackSummary.from_list([f for f in error.stack if not f.filename.startswith(_MACHINERY)])
    for other in (error.__cause__, error.__context__, *(error.exceptions or ())):
        if other is not None:
            _trim(other)


def _frames(error: traceback.TracebackException) -> int:
    others = (error.__cause__, error.__context__, *(error.exceptions or ()))
    return len(error.stack) + sum(_frames(other) for other in others if other is not None)


def _own_line(error: traceback.TracebackException) -> tuple[str, int] | None:
    """File and line of the innermost frame in a user's own file; None if there is none."""
    if issubclass(error.exc_type or Exception, SyntaxError) and getattr(error, "filename", None):
        return str(error.filename), int(error.lineno or 1)
    own = [f for f in error.stack if not is_installed(f.filename)]
    return (own[-1].filename, own[-1].lineno or 1) if own else None


def _sentence(error: traceback.TracebackException) -> str:
    """The exception alone: ``NameError: name 'x' is not defined``."""
    lines = list(error.format_exception_only())
    if issubclass(error.exc_type or Exception, SyntaxError):
        return lines[-1].strip()
    return "".join(lines).strip()


def _source(error: traceback.TracebackException, place: tuple[str, int] | None) -> list[str]:
    """The source line; for a syntax error with the mark below it."""
    if issubclass(error.exc_type or Exception, SyntaxError):
        return [line.rstrip("\n") for line in "".join(list(error.format_exception_only())[:-1]).splitlines()[1:]]
    text = linecache.getline(*place).strip() if place else ""
    return [f"    {text}"] if text else []
