"""Resolves the commands and settings that containers are given against the code that they run."""

import dataclasses
import importlib
import importlib.util
import inspect
import shlex

from mesh.cli.main import mesh
from mesh.settings import documentation
from mesh.service import Service
from mesh.settings_reader import Settings
from mesh.settings_reader import documentation as documented


def check(words):
    """Fail unless ``words``, a command line, is a `mesh` command or a Python module with those arguments."""
    program, *rest = words
    if program in ("mesh", "mesh-tail"):
        check_mesh(rest if program == "mesh" else ["tail", *rest])
    elif program == "python":
        assert rest[0] == "-m", words
        assert importlib.util.find_spec(rest[1]), f"there is no module {rest[1]}"
    else:
        assert program in ("wget", "pg_isready"), f"{program} is in none of the images"


def check_mesh(words):
    """Fail unless ``mesh`` accepts ``words``; nothing runs."""
    with mesh.make_context("mesh", list(words), resilient_parsing=True) as parent:
        name, *rest = words
        command = mesh.get_command(parent, name)
        assert command is not None, f"there is no command mesh {name}"
        context = command.make_context(name, rest, parent=parent)
    if name == "run":
        module, _, attribute = context.params["target"].partition(":")
        assert isinstance(getattr(importlib.import_module(module), attribute), Service)


def command_lines(service, image_entrypoint, image_command):
    """Every command line that a container of ``service`` runs, its health check too."""
    entrypoint = service.get("entrypoint", image_entrypoint if "build" in service else [])
    command = service.get("command", image_command if "build" in service and "entrypoint" not in service else [])
    assert isinstance(entrypoint, list)
    assert isinstance(command, list)
    if entrypoint[:1] == ["sh"]:
        lines = [shlex.split(line) for line in command[-1].splitlines()]
    else:
        lines = [[*entrypoint, *command]] if entrypoint else []
    if "healthcheck" in service:
        kind, *words = service["healthcheck"]["test"]
        lines.append(words if kind == "CMD" else shlex.split(words[0]))
    return lines


def modules(lines):
    """The names of the example services that ``lines`` run or migrate."""
    words = [word for line in lines for word in line if word.startswith("services.")]
    return list(dict.fromkeys(word.split(".")[1].split(":")[0] for word in words))


def settings_of(name):
    """The module services.<name>.config, and the settings class that it adds; None where there is none."""
    if importlib.util.find_spec(f"services.{name}.config") is None:
        return None, None
    module = importlib.import_module(f"services.{name}.config")
    [cls] = [
        cls
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, Settings) and cls.__module__ == module.__name__
    ]
    assert dataclasses.is_dataclass(cls)
    return module, cls


def known(names=()):
    """The variables that the mesh and the services ``names`` read, with their defaults."""
    found = {variable: setting.default for setting in documentation() for variable in setting.env}
    for name in names:
        _, cls = settings_of(name)
        if cls is not None:
            found |= {variable: setting.default for setting in documented([cls]) for variable in setting.env}
    return found
