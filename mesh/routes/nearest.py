"""The routes that a mistyped path may have meant, for the text of a 404.

The work is bounded for every table and every path, because anyone can request paths that do not exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import partial
from itertools import islice
from typing import Final

from mesh.routes.path_claims import PathClaims
from mesh.routes.trie import Node

MAX_NODES: Final = 200
"""Nodes that are visited at most, those that follow the path first."""
MAX_LITERALS: Final = 4000
"""Literals of which the first character is compared at most, over all nodes."""
MAX_RANKED: Final = 300
"""Literals of one node that are sorted at most, those with the same first character and length before others."""
MAX_COMPARED: Final = 12
"""Leaves that are compared with care."""
MAX_LENGTH: Final = 80
"""Characters that are compared at most: the time grows with more than their square."""
CUTOFF: Final = 0.6
"""Likeness (0 to 1) below which a route is not shown."""


def nearest(root: Node, path: str, limit: int = 3) -> list[str]:
    """Live routes like ``GET /users/{user_id}``, the most alike first."""
    path = path[:MAX_LENGTH]
    segments = path.removeprefix("/").split("/")
    found = [(_filled(leaf, segments), leaf) for leaf in _near(root, segments) if leaf.live]
    found.sort(key=lambda pair: _roughly(pair[0], path))
    matcher = SequenceMatcher(b=path, autojunk=False)
    ranked = []
    for text, leaf in found[:MAX_COMPARED]:
        matcher.set_seq1(text)
        likeness = matcher.ratio()
        if likeness >= CUTOFF:
            ranked += [(-likeness, route.template, method) for method, route in leaf.live.items()]
    return [f"{method} {template}" for _, template, method in sorted(ranked)[:limit]]


def _near(root: Node, segments: list[str]) -> Iterator[PathClaims]:
    """Leaves, those first whose way follows the path; children alike to a segment before others."""
    stack = [(root, 0)]
    literals_left, ranked_left = MAX_LITERALS, 2 * MAX_RANKED
    for _ in range(MAX_NODES):
        if not stack:
            return
        node, place = stack.pop()
        if node.leaf is not None:
            yield node.leaf
        if node.tail is not None:
            yield node.tail
        segment = segments[place] if place < len(segments) else ""
        seen = list(islice(node.literals, literals_left))
        literals_left -= len(seen)
        others = [literal for literal in seen if literal[:1] == segment[:1] and literal != segment]
        others.sort(key=partial(_longer_or_shorter, len(segment)))
        others += [literal for literal in seen if literal[:1] != segment[:1]]
        del others[min(MAX_RANKED, ranked_left) :]
        ranked_left -= len(others)
        others.sort(key=lambda literal: _roughly(literal, segment), reverse=True)
        stack += [(node.literals[literal], place + 1) for literal in others]
        if node.param is not None:
            stack.append((node.param, place + 1))
        if segment in node.literals:
            stack.append((node.literals[segment], place + 1))


def _longer_or_shorter(length: int, literal: str) -> int:
    return abs(len(literal) - length)


def _filled(leaf: PathClaims, segments: list[str]) -> str:
    """The leaf's path with the segments of the requested path as values of its parameters: any value would do."""
    shape, tail = leaf.shape
    own = [
        (segments[place] if place < len(segments) else "") if segment is None else segment
        for place, segment in enumerate(shape)
    ]
    if tail:
        own += segments[len(shape) :]
    return ("/" + "/".join(own))[:MAX_LENGTH]


def _roughly(text: str, other: str) -> tuple[int, str]:
    """A sort key that is smaller for more alike texts; cheaper and less exact than `SequenceMatcher`."""
    start = _shared(text, other)
    end = _shared(text[start:][::-1], other[start:][::-1])
    return max(len(text), len(other)) - start - end, text


def _shared(text: str, other: str) -> int:
    """The length of the common beginning."""
    for count, (mine, its) in enumerate(zip(text, other, strict=False)):
        if mine != its:
            return count
    return min(len(text), len(other))
