"""How settings are declared, read and checked; the settings themselves are in `mesh.settings`.

A settings class is a frozen dataclass whose fields are made with `setting`. A value comes from the first source
that has one: flag > environment > mesh.toml > default. An empty environment variable counts as not set.
Reading never stops at the first mistake: `read_all` collects every one into a single `ConfigError`.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mesh.errors import ConfigError

OWN_PREFIX = "MESH_"
NEAR = 0.75
"""Likeness (0 to 1), without the prefix, from which a variable is taken for the misspelt name of a setting."""
_METADATA = "mesh.setting"
_USERINFO = re.compile(r"[^/\s]+@")
_ANYTHING_BEFORE_AT = re.compile(r"([a-z]+://)?.*@", re.DOTALL)
# Kubernetes and Docker links describe a service called `mesh-…` in variables that start with MESH_ too. One is named as
# a setting is (MESH_GATEWAY_PORT=tcp://10.0.0.1:8080). They are not settings.
_INJECTED_NAME = re.compile(r".*_SERVICE_(HOST|PORT(_.+)?)|.*_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?")
_INJECTED_PORT = re.compile(r"(tcp|udp|sctp)://.*")
_log = logging.getLogger("mesh.settings")
_told: set[str] = set()  # variables that this process has warned of


@dataclass(frozen=True, slots=True)
class SettingType:
    """A type of value: ``parse`` raises ValueError or TypeError, ``allowed`` completes "give …"."""

    parse: Callable[[object], Any]
    allowed: str
    is_path: bool = False


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable that belongs to no settings class, so that it is documented and not a mistake."""

    name: str
    doc: str


@dataclass(frozen=True, slots=True)
class Documented:
    """One setting as the documentation shows it. ``default`` is text, empty if there is none."""

    name: str
    env: tuple[str, ...]
    toml: str
    default: str
    allowed: str
    doc: str
    secret: bool


@dataclass(frozen=True, slots=True)
class _Meta:
    type: SettingType
    env: tuple[str, ...]
    doc: str
    secret: bool


def setting(default: Any, setting_type: SettingType, *, doc: str, env: Sequence[str] = (), secret: bool = False) -> Any:
    """A field of a settings class.

    default: its value if no source has one
    setting_type: parses and checks a value
    doc: a sentence for the documentation
    env: the variables that set it; the first one that is present counts
    secret: True keeps values out of errors, ``repr`` and the documentation
    """
    metadata = {_METADATA: _Meta(setting_type, tuple(env), doc, secret)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def redact(text: str) -> str:
    """``text`` without the user, password or token of a URL in it, even of one without a scheme."""
    return _USERINFO.sub("***@", text)


@dataclass(frozen=True, repr=False)
class Settings:
    """Base of the settings classes. ``section`` is their table in mesh.toml and the prefix of their names."""

    section: ClassVar[str]

    def conflicts(self, sources: Mapping[str, str]) -> Iterator[str]:
        """A sentence for each pair of values that exclude each other.

        sources: where each field came from; fields with their default are not in it
        """
        yield from ()

    def __repr__(self) -> str:
        shown = (f"{name}={_show(getattr(self, name), meta)}" for name, meta in _fields(type(self)))
        return f"{type(self).__name__}({', '.join(shown)})"


def read_all(
    classes: Sequence[type[Settings]],
    *,
    environ: Mapping[str, str],
    file: Path | None,
    flags: Mapping[str, Any] | None = None,
    known: Iterable[type[Settings]] = (),
    variables: Iterable[Variable] = (),
) -> tuple[Settings, ...]:
    """Instances of ``classes``, in that order, or one `ConfigError` with every mistake of all of them.

    environ, file: the environment, and mesh.toml or None
    flags: values by field name; None means "not given"
    known: further classes whose names are legal, although their values are not read now
    variables: further legal environment variables

    A MESH_* variable that is near the name of a setting is a mistake. One that is near none belongs to another program;
    the log warns of it once. Raises TypeError if a flag belongs to none of ``classes``: a mistake of the command.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    stray = given.keys() - {name for cls in classes for name, _ in _fields(cls)}
    if stray:
        raise TypeError(f"flags without a setting: {', '.join(sorted(stray))}")
    problems: list[str] = []
    everything = tuple(dict.fromkeys((*classes, *known)))
    document = _read(file, problems)
    problems += _misspelt_variables(environ, names_of(everything, variables))
    problems += _unknown_keys(document, everything, file)
    loaded = []
    for cls in classes:
        values, sources, wrong = _values(cls, given, environ, document, file)
        problems += wrong
        if not wrong:
            instance = cls(**values)
            problems += instance.conflicts(sources)
            loaded.append(instance)
    if problems:
        raise ConfigError(problems)
    for name in strangers(environ, names_of(everything, variables)):
        if name not in _told:
            _told.add(name)
            _log.warning("environment %s: no setting of the mesh has this name; it is ignored", name)
    return tuple(loaded)


def names_of(classes: Iterable[type[Settings]], variables: Iterable[Variable] = ()) -> set[str]:
    """The names of all environment variables that have a meaning."""
    return {v for cls in classes for _, meta in _fields(cls) for v in meta.env} | {v.name for v in variables}


def strangers(environ: Mapping[str, str], names: Collection[str]) -> list[str]:
    """The MESH_* variables in ``environ`` that are not in ``names``, and not near one of them."""
    return [name for name in _unknown(environ, names) if not _meant(name, names)]


def documentation(classes: Iterable[type[Settings]]) -> Iterator[Documented]:
    """Every setting of ``classes``, in declaration order."""
    for cls in classes:
        defaults = cls()
        for name, meta in _fields(cls):
            yield Documented(
                name=f"{cls.section}.{name}",
                env=meta.env,
                toml=f"[{cls.section}] {name}",
                default=_default_text(getattr(defaults, name)),
                allowed=meta.type.allowed,
                doc=meta.doc,
                secret=meta.secret,
            )


def _fields(cls: type[Settings]) -> Iterator[tuple[str, _Meta]]:
    for field in dataclasses.fields(cls):
        yield field.name, field.metadata[_METADATA]


def _values(
    cls: type[Settings],
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    document: Mapping[str, Any],
    file: Path | None,
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    problems: list[str] = []
    table = document.get(cls.section, {})
    for name, meta in _fields(cls):
        raw: object
        variable = next((v for v in meta.env if environ.get(v) and not _injected(v, environ[v])), None)
        if name in flags:
            raw, source = flags[name], f"flag --{name.replace('_', '-')}"
        elif variable is not None:
            raw, source = environ[variable], f"environment {variable}"
        elif isinstance(table, dict) and name in table:
            assert file is not None
            raw, source = table[name], f"{file.name} [{cls.section}] {name}"
            if meta.type.is_path and isinstance(raw, str):
                # A path in a file is relative to that file, wherever the command is started.
                raw = file.parent / Path(raw).expanduser()
        else:
            continue
        sources[name] = source
        try:
            values[name] = meta.type.parse(raw)
        except (ValueError, TypeError):
            problems.append(
                f"{cls.section}.{name} ({source}): {_show(raw, meta)} is not allowed; give {meta.type.allowed}"
            )
    return values, sources, problems


def _read(file: Path | None, problems: list[str]) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"{file}: there is no such file; create it or name another one")
    except OSError as error:
        problems.append(f"{file}: cannot be read ({error.strerror})")
    except UnicodeDecodeError:
        problems.append(f"{file}: is not UTF-8 text")
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{file}: is not valid TOML ({error})")
    return {}


def _unknown_keys(document: Mapping[str, Any], classes: Iterable[type[Settings]], file: Path | None) -> Iterator[str]:
    where = file.name if file else ""
    by_section = {cls.section: [name for name, _ in _fields(cls)] for cls in classes}
    for section, table in document.items():
        if section not in by_section:
            yield f"{where} [{section}]: no such section{_hint(section, by_section)}"
        elif not isinstance(table, dict):
            yield f"{where} {section}: must be a section, written [{section}]"
        else:
            for key in sorted(table.keys() - set(by_section[section])):
                yield f"{where} [{section}] {key}: no such setting{_hint(key, by_section[section])}"


def _misspelt_variables(environ: Mapping[str, str], names: Collection[str]) -> Iterator[str]:
    for name in _unknown(environ, names):
        if meant := _meant(name, names):
            yield f"environment {name}: no such setting; did you mean {meant}?"


def _unknown(environ: Mapping[str, str], names: Collection[str]) -> Iterator[str]:
    for name in sorted(environ):
        if name.startswith(OWN_PREFIX) and name not in names and not _injected(name, environ[name]):
            yield name


def _meant(name: str, names: Collection[str]) -> str:
    """The variable that ``name`` misspells, or empty. The prefix does not count, because all share it."""
    known = {candidate.removeprefix(OWN_PREFIX): candidate for candidate in sorted(names)}
    near = difflib.get_close_matches(name.removeprefix(OWN_PREFIX), known, n=1, cutoff=NEAR)
    return known[near[0]] if near else ""


def _injected(name: str, value: str) -> bool:
    if not name.startswith(OWN_PREFIX):
        return False
    return bool(_INJECTED_NAME.fullmatch(name) or (name.endswith("_PORT") and _INJECTED_PORT.fullmatch(value)))


def _hint(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, sorted(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _show(value: object, meta: _Meta) -> str:
    if meta.secret and value is not None:
        return "the value (not shown)"
    if isinstance(value, tuple):
        return repr(tuple(_without_login(part) for part in value))
    return repr(_without_login(value))


def _without_login(value: object) -> object:
    """A value to show. It may be a URL that is wrong only because its password has a slash or a comma."""
    if isinstance(value, str | Path):
        return _ANYTHING_BEFORE_AT.sub(r"\1***@", str(value))
    return value


def _default_text(value: object) -> str:
    if value is None or value == {}:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)
