"""`mesh run`: run one instance of a service."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from mesh.cli.exit import fail
from mesh.cli.load_settings import load
from mesh.settings import BusSettings, ServiceSettings

APPLICATIONS = frozenset({"fastapi", "starlette", "litestar", "quart", "flask", "django", "falcon", "blacksheep"})
"""Packages whose applications `mesh serve` runs."""


@click.command("run")
@click.argument("target", metavar="MODULE:SERVICE")
@click.option("--reload", is_flag=True, help="Replace the instance when a file below this folder changes.")
@click.option("--instance", hidden=True, default="", help="The instance's id; a new one by default.")
@click.option("--replaces", hidden=True, help="Started by --reload: the id of the instance before, or nothing.")
def command(target: str, reload: bool, instance: str, replaces: str | None) -> None:
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
    run_service(find(target, settings.log_level), bus, settings, instance, replaces)


def run_service(
    service: Any, bus: BusSettings, settings: ServiceSettings, instance: str = "", replaces: str | None = None
) -> None:
    """Run one instance until it is asked to stop. If its start fails, the user's own line is printed."""
    import asyncio

    from mesh.cli.user_errors import shown
    from mesh.logs import configure
    from mesh.service.forced_exit import end_within
    from mesh.service.run import loop_factory, serve

    configure(settings.log_level, settings.log_format)
    with shown(1, settings.log_level), asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            runner.run(serve(service, bus, settings, instance, replaces=replaces))
        except BaseException:
            end_within(code=1)
            raise
        end_within()


def find(target: str, log_level: str) -> Any:
    """The `Service` that ``module:name`` or a file name means. If there is none, it says why and exits with 2."""
    from mesh.service import Router, Service

    module, attribute = load_module(
        target, "MODULE:SERVICE names a file and a Service in it, as users:service", log_level
    )
    name, own = module.__name__, vars(module)
    if not attribute:
        services = {id(value): key for key, value in reversed(own.items()) if isinstance(value, Service)}
        found = list(reversed(services.values()))  # one of two names is enough
        if len(found) > 1:
            fail(
                f"{name} has {len(found)} Service objects, {_listed(found)}; name one of them, as {name}:{found[0]}", 2
            )
        if not found:
            routers = [key for key, value in own.items() if isinstance(value, Router)]
            what = f"; {_listed(routers)} is a Router: a Service includes it" if routers else _serve_hint(name, own)
            fail(f"{name} has no Service object{what}", 2)
        attribute = found[0]
    service = own.get(attribute)
    if not isinstance(service, Service):
        if is_application(service):
            fail(f"{name}:{attribute} is no mesh.Service{_serve_hint(name, {attribute: service})}", 2)
        what = f"a {type(service).__name__}, not a mesh.Service" if attribute in own else "not there"
        hint = did_you_mean(attribute, [key for key, value in own.items() if isinstance(value, Service)])
        fail(f"{name}:{attribute} is {what}{hint}", 2)
    return service


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _serve_hint(module: str, values: dict[str, Any]) -> str:
    """What to type if a module has an application of another framework and no Service."""
    for key, value in values.items():
        if is_application(value):
            kind = type(value).__name__
            return f"; {key} is a {kind} application: mesh serve {module}:{key} --name {module.rpartition('.')[2]}"
    return ""


def is_application(value: Any) -> bool:
    """True for an application of one of `APPLICATIONS`."""
    root = type(value).__module__.partition(".")[0]
    return root in APPLICATIONS and callable(value) and not isinstance(value, type)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'users'?`` if a known word is near; else empty."""
    near = difflib.get_close_matches(word, sorted(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def load_module(target: str, meaning: str, log_level: str) -> tuple[ModuleType, str]:
    """The module and the name in ``module:name``. The current folder is searched first; a file name works too.

    meaning: what ``module:name`` means, for the error text
    log_level: ``debug`` shows whole tracebacks

    For an exception in the module it prints the user's own line and exits with 1, for a wrong declaration with 2.
    """
    from mesh.cli.user_errors import shown
    from mesh.service.run import importing

    name, _, attribute = target.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            near = did_you_mean(path.name, (file.name for file in path.parent.glob("*.py")))
            fail(f"there is no file {name!r}{near}", 2)
        sys.path.insert(0, str(path.resolve().parent))
        name = path.stem
    with shown(1, log_level), importing():
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            near = did_you_mean(name, (file.stem for file in Path.cwd().glob("*.py")))
            fail(f"there is no module {name!r} here{near or f'; {meaning}'}", 2)
    if path.suffix == ".py" and not _is_from(module, path):
        fail(f"{path} has the name of another module, {module.__file__ or 'one of Python'}; give it another", 2)
    return module, attribute


def _is_from(module: ModuleType, path: Path) -> bool:
    return module.__file__ is not None and Path(module.__file__).resolve() == path.resolve()
