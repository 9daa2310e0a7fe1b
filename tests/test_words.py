"""Names that a stranger finds: no vague words, no two classes of one name, no import circles.

The sets whose names begin with ``STILL_`` have what is left to rename or to untie. They only shrink: nothing is added.
"""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("mesh", "gateway", "services")

VAGUE = frozenset(
    {
        *("anew", "answer", "contents", "core", "cycle", "directory", "doubt", "entry", "exchange"),
        *("heir", "held", "helper", "hub", "kind", "lane", "leaf", "link", "manager"),
        *("own", "patience", "place", "plain", "probe", "settle", "stall", "step", "taker"),
        *("util", "view"),
    }
)
"""Words that are no part of a module's or a class's name, neither in the singular nor in the plural."""
TOO_SHORT = frozenset(
    {
        *("Announced", "Ask", "Content", "Data", "Fit", "Moments", "Object", "Outcomes"),
        *("Seen", "Table", "Target", "View"),
    }
)
"""Names that say too little to be a whole class name."""
DOCUMENTED = frozenset({"direct_lane", "asgi_lane", "AsgiLane"})
"""Names with such a word that the documentation explains: the direct lane and the ASGI lane."""
STILL_VAGUE = frozenset({"Answer", "ConnectionProbes", "connection_probes", "plain_client"})
"""Only shrinks: a name that is gone is taken out."""

PRIVATE_TWICE = frozenset()
"""Private classes that may have one name in several modules."""
STILL_TWICE = frozenset({"Response"})
"""Only shrinks: a name that is gone is taken out."""

STILL_CIRCLES = frozenset()
"""Only shrinks: circles as their modules, sorted, with blanks between them. One that is gone is taken out."""


def sources(*folders):
    return {path: ast.parse(path.read_text()) for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))}


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def classes(tree):
    return [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def words(name):
    """``"HeldReplies"`` and ``"held_replies"`` as ``{"held", "reply"}``: in lower case, in the singular."""
    found = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)
    return {singular(word.lower()) for word in found}


def singular(word):
    if word in VAGUE:
        return word
    return word.removesuffix("ies") + "y" if word.endswith("ies") else word.removesuffix("s")


def circles(graph):
    """The strongly connected components of more than one module (Tarjan's algorithm)."""
    index, low, stack, found = {}, {}, [], []

    def visit(module):
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in graph[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            start = stack.index(module)
            component = stack[start:]
            del stack[start:]
            if len(component) > 1:
                found.append(" ".join(sorted(component)))

    for module in graph:
        if module not in index:
            visit(module)
    return found


def imports(tree, modules):
    """What a module imports anywhere in it: in functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in modules else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_names_of_modules_and_classes_are_words_of_the_field():
    names = set()
    for path, tree in sources("mesh", "gateway").items():
        names |= {path.stem, path.parent.name, *classes(tree)}
    vague = {name for name in names if words(name) & VAGUE or name in TOO_SHORT} - DOCUMENTED
    assert not vague - STILL_VAGUE


def test_no_two_classes_have_one_name():
    where = defaultdict(list)
    for path, tree in sources("mesh", "gateway").items():
        for name in classes(tree):
            where[name].append(module_of(path))
    twice = {name: modules for name, modules in where.items() if len(modules) > 1 and name not in PRIVATE_TWICE}
    assert not {name: modules for name, modules in twice.items() if name not in STILL_TWICE}


def test_modules_do_not_import_each_other_in_circles():
    trees = {module_of(path): tree for path, tree in sources(*FOLDERS).items()}
    graph = {module: {m for m in imports(tree, trees) if m in trees} - {module} for module, tree in trees.items()}
    assert not set(circles(graph)) - STILL_CIRCLES


@pytest.mark.parametrize(
    ("name", "expected"),
    [("HeldReplies", {"held", "reply"}), ("_LaneProtocol", {"lane", "protocol"}), ("kinds", {"kind"})],
)
def test_names_are_taken_apart(name, expected):
    assert words(name) == expected


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b c"]
