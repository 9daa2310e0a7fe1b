"""Settings for commands: flags over environment over mesh.toml, every mistake named, exit code 2."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from mesh.errors import ConfigError
from mesh.settings import find_file, load_all


def load(*classes: type[Any], flags: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
    """An instance of each settings class. If there are mistakes, they are printed, and the process exits with 2."""
    read: Any = load_all
    try:
        with _warnings():
            found: tuple[Any, ...] = read(*classes, flags=flags, environ=os.environ, file=find_file(os.environ))
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        sys.exit(2)
    return found


@contextmanager
def _warnings() -> Iterator[None]:
    """Print warnings to standard error in the form of the commands, because logging is not configured yet."""
    logger, handler = logging.getLogger("mesh.settings"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
