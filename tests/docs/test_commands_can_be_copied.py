"""Command lines that a reader copies work in every shell, and a block never waits in its middle."""

import ast
import re
import shlex

import pytest

from tests.docs.pages import PAGES, ROOT, Block, blocks, name_of
from tests.docs.reader import commands

TUTORIAL = ROOT / "docs" / "tutorial.md"
READMES = [*sorted((ROOT / "services").rglob("README.md")), ROOT / "compose" / "README.md"]
EVERYWHERE = [page for page in (*PAGES, *READMES) if "node_modules" not in page.parts and blocks(page)]
GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))


def unquoted(line: str) -> list[str]:
    """The words of a ``curl`` line in which a shell would see a pattern or two commands."""
    lexer = shlex.shlex(line, posix=False)
    lexer.whitespace_split = True
    return [word for word in lexer if "//" in word and word[0] not in "'\"" and set(word) & set("?*&[]{}")]


def runs_until_stopped(words: list[str]) -> bool:
    """Whether that command ends only with Ctrl-C."""
    if words[:2] == ["make", "up"] or words[0] == "mesh-tail" or words[:2] == ["mesh", "tail"]:
        return "--once" not in words
    return words[0] == "mesh" and (words[1] in ("up", "run", "serve", "bridge", "gateway") or "--watch" in words)


def lines_of(block: Block) -> list[str]:
    return re.sub(r"\\\n\s*", " ", block.text).splitlines()


@pytest.mark.parametrize("page", EVERYWHERE, ids=name_of)
def test_addresses_are_quoted_where_a_shell_would_read_them(page):
    for block in blocks(page):
        if block.language in ("sh", "text"):
            wrong = [word for line in lines_of(block) if line.startswith("curl ") for word in unquoted(line)]
            assert not wrong, f"{name_of(page)}:{block.line}: zsh finds no file like {wrong}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
def test_nothing_follows_a_command_that_does_not_return(page):
    for block in blocks(page):
        if block.language == "sh":
            run = [words for line in lines_of(block) for words in commands(line)[:1]]
            waits = [runs_until_stopped(words) for words in run]
            assert waits == sorted(waits), f"{name_of(page)}:{block.line}: what follows is never reached"


def test_the_tutorial_says_what_runs_until_it_is_stopped():
    for block in blocks(TUTORIAL):
        if block.language == "sh":
            for line in lines_of(block):
                if any(runs_until_stopped(words) for words in commands(line)):
                    assert len(lines_of(block)) == 1, f"{block.line}: it needs a terminal, and a block, of its own"
                    assert "# runs until Ctrl-C" in line


@pytest.mark.parametrize("page", GUIDE, ids=name_of)
def test_a_page_with_several_services_says_how_each_is_run(page):
    named = [
        target.id
        for block in blocks(page)
        if block.language == "python" and not re.match(r"# \w+\.py", block.text)
        for node in ast.parse(block.text).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        for target in node.targets
        if isinstance(node.value.func, ast.Name) and node.value.func.id == "Service" and isinstance(target, ast.Name)
    ]
    if len(named) > 1:
        for name in named:
            assert f"`mesh run {page.stem}.py:{name}`" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("curl http://127.0.0.1:8080/a?b=1", ["http://127.0.0.1:8080/a?b=1"]),
        ("curl 'http://127.0.0.1:8080/a?b=1&c=2'", []),
        ('curl -i "http://127.0.0.1:8080/{id}"', []),
    ],
)
def test_an_address_without_quotes_is_found(line, wrong):
    assert unquoted(line) == wrong
