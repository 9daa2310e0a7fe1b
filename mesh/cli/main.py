"""The `mesh` command: a group whose commands are imported when they are used, so that `--help` is quick."""

from __future__ import annotations

import importlib
import io
import re
import sys
from typing import Any, NoReturn

import click

from mesh.version import VERSION

COMMANDS = {
    "up": ("mesh.cli.up", "Run a whole mesh here: NATS, gateway and example services."),
    "run": ("mesh.cli.run", "Run a service: module:service."),
    "serve": ("mesh.cli.serve", "Run an ASGI or WSGI application as a service."),
    "bridge": ("mesh.cli.bridge", "Stand in for a service that only speaks HTTP."),
    "gateway": ("mesh.cli.gateway", "Run the HTTP gateway."),
    "tail": ("mesh.cli.tail", "Show who joins, changes and leaves, live."),
    "ls": ("mesh.cli.ls", "List instances and how they are."),
    "routes": ("mesh.cli.routes", "List HTTP routes, conflicts and rejected ones."),
    "info": ("mesh.cli.info", "Show everything that a service announces."),
    "stats": ("mesh.cli.stats", "Show requests, errors and times per endpoint."),
    "ping": ("mesh.cli.ping", "Ask NATS, services or one instance to answer."),
    "call": ("mesh.cli.call", "Call an endpoint or a route over the bus."),
    "bench": ("mesh.cli.bench", "Measure how quickly a URL answers."),
    "drain": ("mesh.cli.drain", "Stop instances without losing a request."),
    "doctor": ("mesh.cli.doctor", "Look for what is wrong, and say what to do."),
    "completion": ("mesh.cli.completion", "Print the completion script of a shell."),
}


class LazyGroup(click.Group):
    """Knows its commands' names and summaries without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="mesh")
def mesh() -> None:
    """A service mesh on NATS: services announce their routes, a thin gateway serves them.

    \b
    Examples:
      mesh up                            a whole mesh on this machine
      mesh run users:service             one instance of the service in users.py
      mesh gateway --port 8080           the gateway
      mesh tail                          watch what happens

    NATS is found through NATS_URL (nats://127.0.0.1:4222 by default).
    """


def main() -> NoReturn:
    """Entry point of `mesh`."""
    _start(mesh, "mesh")


def tail_main() -> NoReturn:
    """Entry point of `mesh-tail`."""
    from mesh.cli.tail import command

    _start(command, "mesh-tail")


def _start(command: click.Command, name: str) -> NoReturn:
    """Run a command and exit; wrong usage is told in the form that all other errors have."""
    try:
        code = command.main(prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption) and error.possibilities:
            error.possibilities[:] = _shown(error.possibilities, error.ctx)
        shown = io.StringIO()
        error.show(shown)
        click.echo(re.sub(r"^Error: ", "error: ", shown.getvalue(), flags=re.MULTILINE), err=True, nl=False)
        code = error.exit_code
    except click.Abort:  # Ctrl-C before the command itself handles it
        code = 130
    sys.exit(code)


def _shown(options: list[str], context: click.Context | None) -> list[str]:
    """The options that ``--help`` shows too."""
    parameters = context.command.params if context is not None else []
    hidden = {name for p in parameters if isinstance(p, click.Option) and p.hidden for name in p.opts}
    return [name for name in options if name not in hidden]
