"""Settings for commands: flags over environment over mesh.toml, every mistake named, exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mesh.config import load_all
from mesh.errors import ConfigError


def load(*classes: type[Any], flags: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
    """One instance of each settings class; prints every mistake and exits with 2 otherwise."""
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    try:
        return tuple(load_all(*classes, flags=given, environ=os.environ, file=Path("mesh.toml")))
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        sys.exit(2)
