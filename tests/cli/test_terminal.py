"""Tables that fit the terminal, and colours where they are wanted."""

import asyncio
import io

import pytest

from mesh import Service
from mesh.cli.main import COMMANDS
from mesh.cli.terminal import GAP, ColumnFit, Terminal, fitted
from mesh.colour import has_colours
from tests.cli.builders import on_terminal, users

HEAD = ("SERVICE", "INSTANCE", "REVISION", "STATE")
FIT = (ColumnFit("INSTANCE", 8, mark=""), ColumnFit("REVISION"), ColumnFit("SERVICE", 10))
LONG = "orders-and-invoices-of-the-southern-branch"


def total(widths):
    return sum(w + len(GAP) for w in widths if w) - len(GAP)


@pytest.mark.parametrize(
    ("room", "widths"),
    [
        (0, [14, 22, 8, 5]),  # nobody looks: everything is there
        (80, [14, 22, 8, 5]),
        (53, [14, 20, 8, 5]),
        (41, [14, 8, 8, 5]),
        (40, [14, 8, 0, 5]),
        (30, [13, 8, 0, 5]),
        (27, [10, 8, 0, 5]),
        (20, [3, 8, 0, 5]),
    ],
)
def test_columns_give_way_in_their_order(room, widths):
    found = fitted(HEAD, [14, 22, 8, 5], FIT, room)
    assert found == widths
    assert not room or total(found) <= room


def test_without_a_terminal_nothing_is_shortened():
    stream = io.StringIO()
    Terminal(stream).table(HEAD, [(LONG, "7K2M" * 6, "ab" * 60, "ready")], FIT)
    assert LONG in stream.getvalue()
    assert "7K2M" * 6 in stream.getvalue()
    assert "ab" * 60 in stream.getvalue()


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "coloured"),
    [
        (Screen(), {"TERM": "xterm"}, True),
        (Screen(), {}, True),
        (Screen(), {"TERM": "dumb"}, False),
        (Screen(), {"NO_COLOR": "1"}, False),
        (Screen(), {"NO_COLOR": "", "TERM": "xterm"}, True),
        (Screen(), {"NO_COLOR": "1", "FORCE_COLOR": "1"}, True),
        (io.StringIO(), {"TERM": "xterm"}, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, True),
        (None, {"FORCE_COLOR": "1"}, False),
    ],
)
def test_who_gets_colours(monkeypatch, stream, environment, coloured):
    for name in ("TERM", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert has_colours(stream) is coloured


@pytest.mark.parametrize(("term", "cleared"), [("xterm", "\x1b[H\x1b[2J"), ("dumb", "\n")])
def test_only_a_screen_that_can_is_emptied(monkeypatch, term, cleared):
    monkeypatch.setenv("TERM", term)
    screen = Screen()
    Terminal(screen).clear()
    assert screen.getvalue() == cleared


async def wide(mesh):
    """Services and routes with long names."""
    service = Service(LONG, version="1.20.300")

    @service.get("/orders-of-the-southern-branch/{order_number}/invoices/{invoice_number}", deprecated=True, timeout=2)
    async def an_invoice_of_an_order(order_number: str, invoice_number: str) -> str:
        """The summary of what this route gives, which is longer than it need be."""
        raise ValueError

    await mesh.start(service)
    return await mesh.start(users())


@pytest.mark.parametrize("columns", [80, 60])
async def test_no_line_of_a_table_is_wider_than_the_terminal(shell, mesh, columns):
    instance = await wide(mesh)
    commands = (["ls"], ["routes"], ["stats"], ["ping"], ["info", LONG], ["ls", "users"])
    runs = (on_terminal(shell, *command, columns=columns, NO_COLOR="1") for command in commands)
    for command, shown in zip(commands, await asyncio.gather(*runs), strict=True):
        table = [line for line in shown.splitlines() if not line.startswith(("  metadata", "  desc", "  rev", LONG))]
        if command[0] != "info":
            table = shown.splitlines()
            assert instance.id[:8] in shown or command[0] == "routes"
        assert len(table) > 1
        assert max(map(len, table)) <= columns, shown


@pytest.mark.parametrize("name", [*COMMANDS, ""])
async def test_help_fits_80_columns(shell, name):
    done = await shell(*filter(None, (name, "--help")), COLUMNS="80")
    wide = [line for line in done.out.splitlines() if len(line) > 80]
    assert not wide


async def test_states_have_their_colours(shell, mesh):
    await mesh.start(users())
    assert "\x1b[32mready\x1b[0m" in await on_terminal(shell, "ls")


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
@pytest.mark.parametrize("command", [["ls"], ["tail", "--once"], ["routes"], ["doctor", "--for", "1"]])
async def test_no_escapes_where_none_are_wanted(shell, mesh, environment, command):
    await mesh.start(users())
    assert "\x1b" not in await on_terminal(shell, *command, **environment)
