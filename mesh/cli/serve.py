"""`mesh serve`: run an existing ASGI or WSGI application as a service, with no port."""

from __future__ import annotations

from typing import Any

import click

from mesh.cli.main import fail
from mesh.cli.run import load_module, run_service
from mesh.cli.settings import load
from mesh.config import BusSettings, ServiceSettings


@click.command("serve")
@click.argument("target", metavar="MODULE:APP")
@click.option("--name", required=True, help="The service's name.")
@click.option("--version", default="0.0.1", show_default=True, help="Its version.")
@click.option("--description", default="", help="What it does  [default: the application's own words]")
@click.option("--prefix", default="", help="Where it is mounted; needed where the application does not say its routes.")
@click.option("--strip", is_flag=True, help="Tell the application that it is mounted there (root_path).")
@click.option("--include", multiple=True, metavar="PATTERN", help="Announce only paths like this; may be repeated.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Do not announce paths like this; may be repeated.")
@click.option("--health", default="", metavar="PATH", help="A page of the application that says whether it is ready.")
@click.option("--interface", type=click.Choice(["auto", "asgi", "wsgi"]), default="auto", show_default=True)
@click.option("--factory", is_flag=True, help="APP is a function that makes the application.")
def command(target: str, name: str, interface: Any, factory: bool, **options: Any) -> None:
    """Run an application of FastAPI, Starlette, Litestar, Django, Flask ... on the mesh, unchanged and without a port.

    Routes, methods, summaries and tags are taken from FastAPI's and Starlette's applications, but for documentation
    and what they keep out of their schema. Any other announces everything below --prefix.

    \b
    Examples:
      mesh serve shop.main:app --name shop
      mesh serve main.py:app --name chat --health /health --exclude '/internal/*'
      mesh serve wsgi:application --name legacy --prefix /legacy --strip
      mesh serve shop.main:create_app --factory --name shop --version 2.1.0

    Exit codes: 0 after draining, 1 when the application does not start, 2 for wrong settings or declarations.
    """
    bus, settings = load(BusSettings, ServiceSettings)
    meaning = "MODULE:APP names a file and an application in it, as main:app"
    module, attribute = load_module(target, meaning, settings.log_level)
    attribute = attribute or "app"
    app = getattr(module, attribute, None)
    if app is None or not callable(app):
        what = "no application" if app is None else f"a {type(app).__name__}, which nobody can call"
        fail(f"{module.__name__}:{attribute} is {what}", 2)
    from mesh.adapters import adapt
    from mesh.cli.mistakes import shown

    with shown(1, settings.log_level):
        adapted = adapt(app() if factory else app, name=name, interface=interface, **options)
    run_service(adapted.service, bus, settings)
