"""`mesh serve`: run an existing ASGI or WSGI application as a service, with no port."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from mesh.cli.exit import fail
from mesh.cli.load_settings import load
from mesh.cli.run import is_application, load_module, run_service
from mesh.settings import BusSettings, ServiceSettings

TIMEOUT_HELP = "How long callers wait for an answer, all routes or those like PATTERN; may be repeated."
SLASHES_HELP = "Let paths with %2F and %5C through; without it, they are a 400."
_GENERAL = frozenset({"app", "application", "asgi", "main", "server", "wsgi", "__init__"})
"""Names of modules that do not name a service."""


@click.command("serve")
@click.argument("target", metavar="MODULE:APP")
@click.option("--name", default="", help="The service's name  [default: the application's title, or its module]")
@click.option("--version", default="0.0.1", show_default=True, help="Its version.")
@click.option("--description", default="", help="What it does  [default: the application's own words]")
@click.option("--prefix", default="", help="Where it is mounted; needed if the application does not list its routes.")
@click.option("--strip", is_flag=True, help="Tell the application that it is mounted there (root_path).")
@click.option("--include", multiple=True, metavar="PATTERN", help="Announce hidden pages like this too; repeatable.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Do not announce paths like this; repeatable.")
@click.option("--only", multiple=True, metavar="PATTERN", help="Announce nothing but paths like this; repeatable.")
@click.option("--catch-all", is_flag=True, help="Announce all else below --prefix too: for its redirects, its own 404.")
@click.option("--timeout", "timeouts", multiple=True, metavar="[PATTERN=]SECONDS", help=TIMEOUT_HELP)
@click.option("--encoded-slashes", is_flag=True, help=SLASHES_HELP)
@click.option("--health", default="", metavar="PATH", help="A page of the application that says whether it is ready.")
@click.option("--interface", type=click.Choice(["auto", "asgi", "wsgi"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=32, show_default=True, help="Threads for WSGI.")
@click.option("--factory", is_flag=True, help="APP is a function that makes the application.")
@click.option("--reload", is_flag=True, help="Replace the instance when a file below this folder changes.")
@click.option("--instance", hidden=True, default="", help="The instance's id; a new one by default.")
@click.option("--replaces", hidden=True, help="Started by --reload: the id of the instance before, or nothing.")
def command(
    target: str,
    name: str,
    interface: Any,
    factory: bool,
    timeouts: tuple[str, ...],
    reload: bool,
    instance: str,
    replaces: str | None,
    **options: Any,
) -> None:
    """Run an application of FastAPI, Starlette, Litestar, Django, Flask ... on the mesh, unchanged and without a port.

    Routes, methods, summaries and tags are taken from applications of FastAPI and Starlette, except documentation and
    routes that are not in their schema. Any other application announces everything below --prefix.

    \b
    Examples:
      mesh serve shop.main:app
      mesh serve shop.main:app --name shop --reload
      mesh serve main.py:app --name chat --health /health --exclude '/internal/*'
      mesh serve wsgi:application --name legacy --prefix /legacy --strip
      mesh serve shop.main:create_app --factory --name shop --timeout 30

    Exit codes: 0 after draining, 1 when the application does not start, 2 for wrong settings or declarations.
    """
    bus, settings = load(BusSettings, ServiceSettings)
    meaning = "MODULE:APP names a file and an application in it, as main:app"
    if reload:
        import asyncio

        from mesh.cli.reload import Reloader

        given = [argument for argument in sys.argv[sys.argv.index("serve") :] if argument != "--reload"]
        asyncio.run(Reloader(given, bus, Path.cwd()).run())
        return
    module, attribute = load_module(target, meaning, settings.log_level)
    attribute = attribute or "app"
    app = getattr(module, attribute, None)
    if app is None or not callable(app):
        fail(_no_application(module, attribute, app), 2)
    if factory and not _takes_nothing(app):
        kind = "takes arguments" if inspect.isroutine(app) else f"is a {type(app).__name__} already"
        fail(f"{module.__name__}:{attribute} {kind}, so it makes no application; leave --factory out", 2)
    from mesh.adapters import adapt
    from mesh.adapters.timeouts import parse_timeouts
    from mesh.cli.user_errors import shown

    with shown(1, settings.log_level):
        app = app() if factory else app
        name = name or default_name(app, module.__name__)
        adapted = adapt(app, name=name, interface=interface, timeout=parse_timeouts(timeouts), **options)
    for option, pattern in adapted.unmatched:
        click.echo(f"warning: --{option} {pattern!r} matches no route", err=True)
    run_service(adapted.service, bus, settings, instance, replaces)


def _no_application(module: ModuleType, attribute: str, found: Any) -> str:
    """Why a name is not an application, and what to type."""
    from mesh.service import Service

    name, own = module.__name__, vars(module)
    if isinstance(found, Service):
        return f"{name}:{attribute} is a mesh.Service, which needs no adapter: mesh run {name}:{attribute}"
    if found is not None:
        return f"{name}:{attribute} is a {type(found).__name__}, which cannot be called"
    applications = [key for key, value in own.items() if is_application(value)]
    services = [key for key, value in own.items() if isinstance(value, Service)]
    there = [f"mesh serve {name}:{key}" for key in applications] + [f"mesh run {name}:{key}" for key in services]
    return f"{name}:{attribute} is no application" + (f"; there is {', '.join(there)}" if there else "")


def _takes_nothing(function: Any) -> bool:
    """True if it can be called without arguments."""
    try:
        inspect.signature(function).bind()
    except TypeError:
        return False
    except ValueError:  # it has no signature
        return True
    return True


def default_name(app: Any, module: str) -> str:
    """The name of a service if none is given: the title of the application, else the part of its module that names it.

    ``shop.main`` gives ``shop``; ``main`` alone gives the name of the current folder.
    """
    title = getattr(app, "title", "")
    if isinstance(title, str) and title not in ("", "FastAPI"):
        given = title
    else:
        given = next((part for part in reversed(module.split(".")) if part not in _GENERAL), Path.cwd().name)
    return re.sub(r"[^A-Za-z0-9_-]+", "-", given).strip("-").lower()[:64]
