"""The private names of nats-py: the list is complete, and a name that is missing is never met with silence."""

import ast
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.transport import TcpTransport, Transport, WebSocketTransport

import mesh.bus
from mesh.bus import Bus
from mesh.bus.nats_contract import PRIVATE_NAMES, Use, check_contract
from mesh.embedded import free_port
from mesh.errors import BusUnavailable
from mesh.settings import BusSettings
from tests.bus.parts import bus_on, echo

SEED = "SUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4"
"""Of the Go package nkeys's own documentation: nobody's."""


def rename(monkeypatch, private):
    """What another nats-py may do: ``__init__`` sets another attribute in place of this one."""
    init = private.owner.__init__
    names = tuple("renamed" if name == private.name else name for name in init.__code__.co_names)
    monkeypatch.setattr(init, "__code__", init.__code__.replace(co_names=names))


def test_the_contract_holds_with_the_pinned_nats_py():
    assert [check_contract(use) for use in Use] == [""] * len(Use)


@pytest.mark.parametrize("private", PRIVATE_NAMES, ids=lambda private: f"{private.owner.__name__}.{private.name}")
async def test_a_name_that_is_missing_is_said(private, nats_url, prefix, tmp_path, caplog, monkeypatch):
    rename(monkeypatch, private)
    complaint = f"{private.use.value} is impossible with nats-py 2.16.0: {private.owner.__name__} has no {private.name}"
    assert check_contract(private.use) == complaint
    if private.use is Use.FAST_TRANSPORT:
        bus = bus_on(nats_url)
        bus.open()
        assert f"{complaint}: using plain nats-py" in caplog.text
        assert bus._connection.plain_because == complaint
        await bus.aclose()
        return
    seed = tmp_path / "seed"
    seed.write_text(SEED)
    url = f"ws://127.0.0.1:{free_port(0)}" if private.use is Use.WEBSOCKET else nats_url
    bus = Bus(
        BusSettings(
            servers=(url,),
            lane="plain" if private.use is Use.PLAIN_TCP else "auto",
            nkey=seed if private.use is Use.SIGNED_LOGIN else None,
        )
    )
    with pytest.raises(BusUnavailable) as caught:
        async with bus:
            pass
    assert complaint in str(caught.value)
    assert "nats-py>=2.16,<2.17" in caught.value.hint


async def test_the_bus_works_on_plain_nats_py_without_a_name_of_the_fast_transport(nats_url, prefix, monkeypatch):
    """Here the name is missing in the list only, so that nats-py itself works on."""
    renamed = tuple(
        private._replace(name="renamed") if private.use is Use.FAST_TRANSPORT else private for private in PRIVATE_NAMES
    )
    monkeypatch.setattr("mesh.bus.nats_contract.PRIVATE_NAMES", renamed)
    async with bus_on(nats_url) as bus:
        assert not bus.lane
        await echo(bus, f"{prefix}.echo")
        assert (await bus.request(bus.address(f"{prefix}.echo"), b"x", timeout=5)).payload == b"x"


def test_another_abstract_method_and_another_beginning_break_the_contract(monkeypatch):
    methods = Transport.__abstractmethods__
    monkeypatch.setattr(Transport, "__abstractmethods__", methods | {"flush"})
    assert "are others: ['flush']" in check_contract(Use.FAST_TRANSPORT)

    class Eager(Client):
        def __init__(self):
            super().__init__()
            self._transport = object()

    monkeypatch.setattr("mesh.bus.nats_contract.Client", Eager)
    assert "does not start as None" in check_contract(Use.CONNECTION)


def names_used(tree):
    """Attributes of anything but ``self``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr"):
            yield from (name.value for name in node.args[1:2] if isinstance(name, ast.Constant))


def own_names(tree):
    """Attributes that classes of this package set or define."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node.attr
        elif isinstance(node, ast.FunctionDef):
            yield node.name


def inherited_names(tree):
    """Attributes that nats-py's transports set, in their subclasses here."""
    of_base = {base.__name__: base.__init__.__code__.co_names for base in (TcpTransport, WebSocketTransport)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.bases and isinstance(node.bases[0], ast.Name):
            names = of_base.get(node.bases[0].id, ())
            yield from (part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute) and part.attr in names)


def test_the_list_has_every_private_name_that_is_used_and_no_other():
    trees = [ast.parse(path.read_text()) for path in Path(mesh.bus.__file__).parent.glob("*.py")]
    own, used, inherited = (
        {name for tree in trees for name in names(tree) if name.startswith("_") and not name.endswith("__")}
        for names in (own_names, names_used, inherited_names)
    )
    listed = {private.name for private in PRIVATE_NAMES}
    public = {"_replace"}  # of a NamedTuple
    assert (used - own - public) | inherited <= listed
    assert listed <= used | inherited
