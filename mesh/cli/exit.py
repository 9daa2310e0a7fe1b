"""How a command ends with an error: one line on standard error, and an exit code."""

from __future__ import annotations

import sys
from typing import Final, NoReturn

import click

NO_NATS: Final = 75
"""Exit code without a connection to NATS (EX_TEMPFAIL of sysexits.h)."""


def fail(text: str, code: int) -> NoReturn:
    """Print ``error: <text>`` to standard error and exit with ``code``."""
    click.echo(f"error: {text}", err=True)
    sys.exit(code)
