"""A page of documentation, taken apart: its fenced blocks, links and headings."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"(?P<skip><!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """One fenced block; ``line`` is that of its first line of text."""

    language: str
    text: str
    line: int
    reason: str
    """Why it is not run; empty where it is."""
    follows: bool
    """Whether nothing stands between it and the block before."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found, end = [], 0
    for m in FENCE.finditer(text):
        line = text.count("\n", 0, m.start("text")) + 1
        follows = bool(found) and not text[end : m.start()].strip()
        found.append(Block(m["language"], m["text"], line, m["reason"] or "", follows))
        end = m.end()
    return found


def prose(page: Path) -> str:
    """The page without its fenced and indented blocks."""
    return re.sub(r"^ {4}.*$", "", FENCE.sub("", page.read_text(encoding="utf-8")), flags=re.M)


def links(page: Path) -> list[str]:
    return LINK.findall(re.sub(r"`[^`]*`", "", prose(page)))


def anchors(page: Path) -> set[str]:
    """What a link may name after ``#``: the headings, lower-case, with dashes and without punctuation."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"`", "", title)).strip().lower().replace(" ", "-") for title in titles}
