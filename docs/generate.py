"""Writes what is made from the code: reference.md, settings.md, commands.md, protocol/schema.json.

``python docs/generate.py`` writes them; with ``--check`` it only names the ones that are out of date.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

import mesh
from mesh import messages, testing
from mesh.cli.main import COMMANDS
from mesh.cli.main import mesh as mesh_command
from mesh.errors import MeshError
from mesh.service.groups import Group
from mesh.settings import documentation
from mesh.testing import fixtures

HERE = Path(__file__).parent
NOTE = "<!-- Made by docs/generate.py from the code; do not edit. -->"
GROUPS = {
    "Services": ("Service", "Router", "Group", "Context", "Request", "Response"),
    "Parameters": ("Header", "Cookie", "Query", "Body", "Depends"),
    "Streams and WebSockets": ("StreamingResponse", "Event", "WebSocket", "WebSocketClosed"),
    "Clients": ("MeshClient",),
    "Applications": ("adapt", "join"),
}
GIVEN = {
    "Group": "`Service.group` and `Group.group` return one.",
    "Context": "Not made by hand: a handler gets it.",
    "Request": "Not made by hand: a handler or a middleware gets it.",
    "WebSocket": "Not made by hand: a handler of `Service.websocket` gets it.",
    "WebSocketClosed": "Not made by hand: the methods of a `WebSocket` raise it.",
}
INTERNAL = frozenset(
    {
        *("Group.prefix", "Group.queue_group", "Router.declarations", "Router.included"),
        *("Request.block", "Request.envelope", "Request.pairs", "Request.pieces", "Request.raw_header"),
        *("Request.socket", "StreamingResponse.aclose", "StreamingResponse.cleanup"),
        *("StreamingResponse.pieces", "WebSocket.shut", "WebSocket.stream"),
        *("Mesh.client", "PausedClock.settle"),
    }
)
"""Public in the code for other modules of the mesh, and no promise to users."""
WIDTH = 120


def main() -> int:
    pages = {
        "reference.md": reference(),
        "settings.md": settings(),
        "commands.md": commands(),
        "protocol/schema.json": schema(),
    }
    stale = [name for name, lines in pages.items() if _text(lines) != _current(HERE / name)]
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"docs/{name} is out of date; run python docs/generate.py", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (HERE / name).write_text(_text(pages[name]), encoding="utf-8")
    return 0


def _text(lines: list[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _current(page: Path) -> str:
    return page.read_text(encoding="utf-8") if page.exists() else ""


# -- protocol/schema.json


def schema() -> list[str]:
    """Control messages as JSON Schema 2020-12."""
    kinds = (messages.Announcement, messages.Heartbeat, messages.Discover, messages.Cancel, messages.Conflicts)
    _, definitions = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Control messages of the mesh, protocol 1",
        "description": "Receivers ignore fields that they do not know. docs/protocol.md says what the fields mean.",
        "oneOf": [{"$ref": f"#/$defs/{kind.__name__}"} for kind in kinds],
        "$defs": definitions,
    }
    # In JSON Schema's regular expressions (ECMA-262) `$` is the end and nothing else; `\\Z` they do not have.
    return json.dumps(document, indent=1).replace("\\\\Z", "$").splitlines()


# -- reference.md


def reference() -> list[str]:
    lines = [
        "# Reference",
        "",
        NOTE,
        "",
        "The public names of `mesh`, then those of `mesh.testing`. Whatever is not here is not public and may change.",
        "The [guide](guide.md) shows how they are used.",
    ]
    for title, names in GROUPS.items():
        lines += ["", f"## {title}"]
        for name in names:
            lines += _described(name, Group if name == "Group" else getattr(mesh, name))
    lines += ["", "## Errors", "", *_errors(error_names())]
    lines += ["", "## mesh.testing"]
    for name in testing.__all__:
        lines += _described(name, getattr(testing, name))
    lines += ["", "### Fixtures", "", *_fixtures()]
    return lines


def error_names() -> list[str]:
    """The public names in no group, which are errors. Raises ValueError for one that is no exception class."""
    grouped = {name for names in GROUPS.values() for name in names}
    names = [name for name in mesh.__all__ if name not in grouped]
    for name in names:
        value = getattr(mesh, name)
        if not (inspect.isclass(value) and issubclass(value, Exception)):
            raise ValueError(f"mesh.{name} is in no group: add it to GROUPS in docs/generate.py")
    return names


def _described(name: str, cls: Any) -> Iterator[str]:
    word = "class " if inspect.isclass(cls) else "def "
    yield from ("", f"### {name}", "", *([] if name in GIVEN else [*_code(word, name, cls), ""]))
    if name in GIVEN:
        yield from (GIVEN[name], "")
    yield from _prose(cls)
    if not inspect.isclass(cls):
        return
    attributes = [(key, doc) for key, doc in _attributes(cls) if f"{name}.{key}" not in INTERNAL]
    if any(doc for _, doc in attributes):
        yield from ("", "Attributes:", "", *(f"- `{key}`: {doc}" if doc else f"- `{key}`" for key, doc in attributes))
    elif attributes:
        yield from ("", f"Attributes: {', '.join(f'`{key}`' for key, _ in attributes)}.")
    for base in cls.__mro__[1:]:
        if base.__name__ in mesh.__all__:
            yield from ("", f"Has everything that [{base.__name__}](#{base.__name__.lower()}) has.")
    for key, member in vars(cls).items():
        if key.startswith("_") or hasattr(tuple, key) or f"{name}.{key}" in INTERNAL or not inspect.getdoc(member):
            continue
        if isinstance(member, property) and member.fget:
            kind = inspect.signature(member.fget).return_annotation
            yield from ("", f"#### {name}.{key}", "", f"    {key}: {kind}", "")
            yield from _prose(member.fget)
        elif inspect.isfunction(member):
            word = "async def " if inspect.iscoroutinefunction(member) else "def "
            yield from ("", f"#### {name}.{key}", "", *_code(word, key, member), "")
            yield from _prose(member)


def _attributes(cls: type) -> Iterator[tuple[str, str]]:
    """The public attributes that ``__init__`` sets, each with the docstring below it, if there is one."""
    if "__init__" not in vars(cls) or hasattr(cls, "_fields"):
        return
    [function] = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(cls.__init__)))).body
    assert isinstance(function, ast.FunctionDef)
    for statement, after in zip(function.body, [*function.body[1:], ast.Pass()], strict=True):
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        if not isinstance(target, ast.Attribute) or target.attr.startswith("_"):
            continue
        text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
        yield target.attr, " ".join(str(text).split()).replace("``", "`")


def _code(word: str, name: str, target: Any) -> list[str]:
    """A signature as an indented block; a long one gets a line for each parameter."""
    signature = inspect.signature(target)
    parts: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts and not any(p[0] == "*" for p in parts):
            parts.append("*")
        parts.append(_parameter(parameter))
    returns = "" if inspect.isclass(target) else f" -> {_annotation(signature.return_annotation)}"
    short = f"    {word}{name}({', '.join(parts)}){returns}"
    if len(short) <= WIDTH:
        return [short]
    return [f"    {word}{name}(", *(f"        {part}," for part in parts), f"    ){returns}"]


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = f"{stars}{parameter.name}: {_annotation(parameter.annotation)}"
    if parameter.default is parameter.empty:
        return text
    default = parameter.default
    return (
        f"{text} = {json.dumps(default) if isinstance(default, str) else '...' if default is ... else _named(default)}"
    )


def _annotation(annotation: Any) -> str:
    """As it was written, without the modules that names come from."""
    text = annotation if isinstance(annotation, str) else _named(annotation)
    return re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", text)


def _named(value: Any) -> str:
    if value is Any:
        return "Any"
    return value.__name__ if isinstance(value, type) else getattr(value, "__forward_arg__", None) or repr(value)


def _prose(target: Any) -> Iterator[str]:
    """A docstring as Markdown: its parameters, one a line, become a list."""
    parameters = inspect.signature(target).parameters if callable(target) else ()
    listed = False
    for line in (inspect.getdoc(target) or "").splitlines():
        name, colon, text = line.partition(": ")
        if colon and name in parameters:
            listed = True
            yield f"- `{name}`: {_markdown(text)}"
        elif listed and line.startswith("    "):
            yield f"  {_markdown(line.strip())}"
        elif line.startswith("    "):
            yield line
        elif line.strip() != "::":
            listed = False
            yield _markdown(line)


def _markdown(line: str) -> str:
    return line.replace("``", "`").removesuffix("::")


def _errors(names: list[str]) -> Iterator[str]:
    yield from (
        "A handler raises one to answer with its status; a caller catches the same class. `executed` says whether the",
        "handler may have run: after `no` it is safe to ask again.",
        "",
        "| class | base | status | reason | executed | |",
        "|---|---|---|---|---|---|",
    )
    errors = [(name, getattr(mesh, name)) for name in names]
    for name, cls in errors:
        first = " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split()).replace("``", "`")
        if cls.__doc__ is None or not isinstance(cls.__dict__.get("__doc__"), str):
            first = cls.title + "." if issubclass(cls, MeshError) else first
        base = cls.__bases__[0].__name__
        if issubclass(cls, MeshError):
            status = "as sent" if name == "RemoteError" else str(cls.status)
            yield f"| `{name}` | `{base}` | {status} | `{cls.reason}` | `{cls.executed}` | {first} |"
        else:
            yield f"| `{name}` | `{base}` | | | | {first} |"
    yield from ("", "### MeshError", "", *_code("class ", "MeshError", MeshError), "")
    yield from _prose(MeshError)
    yield from (
        "",
        "`headers` go into the response. Other keyword arguments become members of the problem document.",
        "`Invalid` takes `errors`, a sequence of mappings with `field` and `message`.",
    )


def _fixtures() -> Iterator[str]:
    head, _, rest = (inspect.getdoc(fixtures) or "").partition("\n\n")
    yield from (head.replace("``", "`"), "", "| fixture | |", "|---|---|")
    for name, text in re.findall(r"^``(\w+)``\n((?: {4}.*\n?)+)", rest, re.M):
        yield f"| `{name}` | {' '.join(text.split()).replace('``', '`')} |"


# -- settings.md


def settings() -> list[str]:
    lines = [
        "# Settings",
        "",
        NOTE,
        "",
        "Flag > environment > `mesh.toml` > default. A command checks all of them at its start and names every mistake",
        "at once. Flags are those of [the commands](commands.md). An empty variable counts as not set.",
        "",
        "| variable | `mesh.toml` | default | allowed | |",
        "|---|---|---|---|---|",
    ]
    for setting in documentation():
        variables = ", ".join(f"`{variable}`" for variable in setting.env)
        toml = f"`{setting.toml}`" if setting.toml else ""
        default = f"`{setting.default}`" if setting.default else ""
        lines.append(f"| {variables} | {toml} | {default} | {setting.allowed} | {setting.doc} |")
    return lines


# -- commands.md


def commands() -> list[str]:
    lines = [
        "# Commands",
        "",
        NOTE,
        "",
        "What `mesh COMMAND --help` says. `mesh-tail` is `mesh tail`. All of them find NATS through `NATS_URL` and the",
        "other [settings](settings.md). [Operations](operations.md) says when to use which.",
        "",
    ]
    with click.Context(mesh_command, info_name="mesh") as parent:
        for name in COMMANDS:
            command = mesh_command.get_command(parent, name)
            assert command is not None
            lines += _command(command, click.Context(command, parent, info_name=name))
    return lines


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield from ("", f"## mesh {command.name}", "", f"    {usage}", "")
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            yield from (f"    {line}" if line.startswith(" ") else line for line in _examples(paragraph))
            yield ""
        else:
            yield from (paragraph, "")
    rows = [p.get_help_record(context) for p in command.params if isinstance(p, click.Option)]
    shown = [row for row in rows if row is not None]
    if shown:
        yield from ("| option | |", "|---|---|")
    for option, text in shown:
        yield f"| `{option.replace('|', chr(92) + '|')}` | {' '.join(text.split()).replace('|', chr(92) + '|')} |"


def _examples(paragraph: str) -> list[str]:
    title, *rest = paragraph.removeprefix("\b").strip("\n").split("\n")
    return [title, "", *rest]


if __name__ == "__main__":
    raise SystemExit(main())
