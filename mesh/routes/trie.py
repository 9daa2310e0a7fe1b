"""The trie of path shapes: its nodes, edits that copy what they change, and the search.

Nodes and leaves never change once they are in a table. An `Edit` copies those on the way to a changed leaf,
each once, and shares all others with the trie it began from.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.routes.path_claims import PathClaims
from mesh.routes.service_claims import RouteClaim, RouteKey


class Node:
    """One place in a path. ``leaf`` is for paths that end here, ``tail`` for any that go on."""

    __slots__ = ("leaf", "literals", "param", "tail")

    def __init__(self) -> None:
        self.literals: dict[str, Node] = {}
        self.param: Node | None = None
        self.leaf: PathClaims | None = None
        self.tail: PathClaims | None = None

    def copy(self) -> Node:
        twin = Node()
        twin.literals = self.literals.copy()
        twin.param = self.param
        twin.leaf = self.leaf
        twin.tail = self.tail
        return twin

    def is_empty(self) -> bool:
        return not self.literals and self.param is None and self.leaf is None and self.tail is None


class Edit:
    """Changes to a trie. ``root`` is the result so far; the trie it began from stays as it was."""

    __slots__ = ("_own", "root")

    def __init__(self, root: Node) -> None:
        self.root = root.copy()
        # Nodes this edit made, so may change in place: a wide node is copied once, not once per route below it.
        self._own = {self.root}

    def change(
        self, key: RouteKey, service: str, claim: RouteClaim | None
    ) -> tuple[PathClaims | None, PathClaims | None]:
        """Set the service's claim on that route, or take it away; gives the leaf before and after."""
        segments, is_tail = key.shape
        way = [self.root]
        for segment in segments:
            node = way[-1]
            child = node.param if segment is None else node.literals.get(segment)
            if child not in self._own:
                child = Node() if child is None else child.copy()
                self._own.add(child)
                _attach(node, segment, child)
            way.append(child)
        end = way[-1]
        before = end.tail if is_tail else end.leaf
        after = (before or PathClaims(key.shape, {})).change(key.method, service, claim)
        if is_tail:
            end.tail = after
        else:
            end.leaf = after
        if after is None:
            for node, segment in zip(way[-2::-1], reversed(segments), strict=True):
                if not way.pop().is_empty():
                    break
                _attach(node, segment, None)
        return before, after


def _attach(node: Node, segment: str | None, child: Node | None) -> None:
    if segment is None:
        node.param = child
    elif child is None:
        del node.literals[segment]
    else:
        node.literals[segment] = child


def matching(root: Node, segments: tuple[str, ...]) -> Iterator[PathClaims]:
    """The leaves whose shape matches, best first: literal before parameter before tail at every segment.

    A node has one way to it, so it is looked at once at most, however many combinations of literal and parameter
    a path offers: the work is bounded by the nodes of the table, and the path's length adds nothing.
    """
    end = len(segments)
    stack: list[tuple[Node | PathClaims, int]] = [(root, 0)]
    while stack:
        node, place = stack.pop()
        if isinstance(node, PathClaims):
            yield node
            continue
        if place == end:
            if node.leaf is not None:
                yield node.leaf
            continue
        segment = segments[place]
        if node.tail is not None:
            stack.append((node.tail, end))
        if segment and node.param is not None:
            stack.append((node.param, place + 1))
        child = node.literals.get(segment)
        if child is not None:
            stack.append((child, place + 1))


def leaves(root: Node) -> Iterator[PathClaims]:
    """Every leaf, in no order."""
    stack = [root]
    while stack:
        node = stack.pop()
        if node.leaf is not None:
            yield node.leaf
        if node.tail is not None:
            yield node.tail
        if node.param is not None:
            stack.append(node.param)
        stack.extend(node.literals.values())
