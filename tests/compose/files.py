"""Reads the files below compose/ the way Compose and a builder do."""

import fnmatch
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose"

_VARIABLE = re.compile(r"(?P<escaped>\$\$)|\$\{(?P<name>\w+)(?::?(?P<kind>[-?+])(?P<word>[^{}]*))?\}|\$(?P<bare>\w+)")


def compose(environ=None):
    """compose.yml with its variables replaced from ``environ``."""
    return replaced(yaml.safe_load((COMPOSE / "compose.yml").read_text()), environ or {})


def replaced(node, environ):
    """``node`` with the variables of every text in it replaced."""
    if isinstance(node, dict):
        return {key: replaced(value, environ) for key, value in node.items()}
    if isinstance(node, list):
        return [replaced(value, environ) for value in node]
    return _VARIABLE.sub(lambda found: _value(found, environ), node) if isinstance(node, str) else node


def _value(found, environ):
    if found["escaped"]:
        return "$"
    assert found["kind"] == "-", f"{found[0]}: give a default, as ${{NAME:-default}}"
    return environ.get(found["name"]) or found["word"]


def variables(node):
    """Name and default of every variable in ``node``, once for each place."""
    if isinstance(node, dict):
        return [pair for value in node.values() for pair in variables(value)]
    if isinstance(node, list):
        return [pair for value in node for pair in variables(value)]
    if not isinstance(node, str):
        return []
    return [(found["name"], found["word"]) for found in _VARIABLE.finditer(node) if found["name"]]


def example():
    """What .env.example documents, with the value it shows."""
    text = (COMPOSE / ".env.example").read_text()
    pairs = re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", text, re.M)
    assert len(pairs) == len(dict(pairs)), "a variable is there twice"
    return dict(pairs)


def postgres_example():
    """The settings for PostgreSQL that .env.example gives as an example."""
    return dict(re.findall(r"^#   ([A-Z_]+)=(.+)$", (COMPOSE / ".env.example").read_text(), re.M))


def dockerfile():
    """The instructions of the Dockerfile, as pairs of a word and its arguments, with the ARGs of FROM replaced."""
    text = re.sub(r"^\s*#.*\n", "", (COMPOSE / "Dockerfile").read_text(), flags=re.M)
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    found = [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]
    given = dict(rest.split("=", 1) for word, rest in found if word == "ARG")
    return [
        (word, re.sub(r"\$\{(\w+)\}", lambda name: given[name[1]], rest) if word == "FROM" else rest)
        for word, rest in found
    ]


def last_stage():
    """The instructions of the stage that becomes the image."""
    found = dockerfile()
    return found[max(i for i, (word, _) in enumerate(found) if word == "FROM") :]


def sent(path):
    """Whether .dockerignore lets the builder see ``path``, which is relative to the root of the repository."""
    visible = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        names = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
        if any(_fits(name, pattern) for name in names):
            visible = line.strip().startswith("!")
    return visible


def _fits(name, pattern):
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(Path(name).name, pattern[3:])
    return name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern)


def pinned(image):
    """Whether ``image`` has a digest or a tag with at least a minor version."""
    return bool(re.search(r"@sha256:[0-9a-f]{64}$|:v?\d+\.\d+[\w.-]*$", image))
