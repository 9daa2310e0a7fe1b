"""Settings for commands: flags over environment over mesh.toml, every mistake named, exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from mesh.config import find_file, load_all
from mesh.errors import ConfigError


def load(*classes: type[Any], flags: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
    """One instance of each settings class; prints every mistake and exits with 2 otherwise."""
    read: Any = load_all
    try:
        found: tuple[Any, ...] = read(*classes, flags=flags, environ=os.environ, file=find_file(os.environ))
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        sys.exit(2)
    return found
