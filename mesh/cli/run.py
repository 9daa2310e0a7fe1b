"""`mesh run`: run one instance of a service."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from mesh.cli.main import fail
from mesh.cli.settings import load
from mesh.config import BusSettings, ServiceSettings
from mesh.errors import ConfigError, DeclarationError


@click.command("run")
@click.argument("target", metavar="MODULE:SERVICE")
@click.option("--reload", is_flag=True, help="Replace the instance when a file below this folder changes.")
@click.option("--instance", hidden=True, default="", help="The instance's id; a new one by default.")
def command(target: str, reload: bool, instance: str) -> None:
    """Run one instance of the Service object in a module, until SIGTERM, Ctrl-C or `mesh drain`.

    MODULE is imported from the current folder first. A file name works too.

    \b
    Examples:
      mesh run users:service
      mesh run shop.orders:service
      mesh run users.py
      mesh run users:service --reload

    Exit codes: 0 after draining, 1 when the service does not start, 2 for wrong settings or declarations.
    """
    bus, settings = load(BusSettings, ServiceSettings)
    if reload:
        import asyncio

        from mesh.cli.reload import Reloader

        asyncio.run(Reloader(["run", target], bus, Path.cwd()).run())
        return
    run_service(find(target), bus, settings, instance)


def run_service(service: Any, bus: BusSettings, settings: ServiceSettings, instance: str = "") -> None:
    """Run one instance until it is asked to stop; a start that fails is said in a sentence."""
    import asyncio

    from mesh.logs import configure
    from mesh.service.exit import end_within
    from mesh.service.run import loop_factory, serve

    configure(settings.log_level, settings.log_format)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            runner.run(serve(service, bus, settings, instance))
            end_within()
        except ConfigError as error:  # of the service's own settings, raised by a startup hook or a dependency
            fail("\nerror: ".join(error.problems), 2)
        except DeclarationError as error:
            fail(str(error), 1)


def find(target: str) -> Any:
    """The `Service` that ``module:name`` or a file name means; says what is wrong and exits with 2 otherwise."""
    from mesh.service import Service

    module, attribute = load_module(target, "MODULE:SERVICE names a file and a Service in it, as users:service")
    name = module.__name__
    if not attribute:
        found = [key for key, value in vars(module).items() if isinstance(value, Service)]
        if len(found) != 1:
            fail(f"{name} has {len(found)} Service objects; name one of them as {name}:NAME", 2)
        attribute = found[0]
    service = getattr(module, attribute, None)
    if not isinstance(service, Service):
        what = "nothing" if service is None else f"a {type(service).__name__}"
        fail(f"{name}:{attribute} is {what}, not a mesh.Service", 2)
    return service


def load_module(target: str, meaning: str) -> tuple[ModuleType, str]:
    """The module that ``module:name`` or a file name means, looked for in the current folder first, and the name."""
    name, _, attribute = target.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            fail(f"there is no file {name!r}", 2)
        sys.path.insert(0, str(path.resolve().parent))
        name = path.stem
    try:
        return importlib.import_module(name), attribute
    except DeclarationError as error:
        fail(str(error), 2)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        fail(f"there is no module {name!r} here; {meaning}", 2)
