"""What proxies say of their clients: read from the right, and never past the first that is not trusted."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.forwarded_headers import MOST_HOPS, Hop, address_of, client_of, hops
from gateway.trusted_proxies import TrustedProxies, is_local, is_loopback, names_this_machine

NEAR, FAR = "10.0.0.1", "10.0.0.2"
TRUSTED = ["10.0.0.0/8", "fd00::/8", "127.0.0.0/8"]
XFF = b"x-forwarded-for"


def read(header="x-forwarded", peer=NEAR, scheme="http", **known):
    names = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in known.items()}
    return TrustedProxies(TRUSTED, header).sender(peer, scheme, {b"host": b"inner.test", **names})


@pytest.mark.parametrize(
    ("node", "address"),
    [
        (b"192.0.2.1", "192.0.2.1"),
        (b"192.0.2.1:443", "192.0.2.1"),
        (b"192.0.2.1:_hidden", "192.0.2.1"),
        (b"2001:DB8:0::1", "2001:db8::1"),
        (b"[2001:db8::1]", "2001:db8::1"),
        (b"[2001:db8::1]:4711", "2001:db8::1"),
        (b"::ffff:192.0.2.1", "192.0.2.1"),
        (b"", ""),
        (b"unknown", ""),
        (b"_hidden", ""),
        (b"192.0.2.256", ""),
        (b"192.0.2.1:", ""),
        (b"192.0.2.1:123456", ""),
        (b"192.0.2.1 ", ""),
        (b"[192.0.2.1", ""),
        (b"[2001:db8::1]x", ""),
        (b"fe80::1%eth0", ""),
        (b'::1%";host=x', ""),
        (b"localhost", ""),
        (b"192.0.2.\xb2", ""),
    ],
)
def test_nodes(node, address):
    assert address_of(node) == address


@given(st.ip_addresses(), st.none() | st.integers(0, 65_535))
def test_every_address_is_read_with_and_without_port(address, port):
    text = str(address) if port is None else f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    mapped = getattr(address, "ipv4_mapped", None)
    assert address_of(text.encode()) == str(mapped or address)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("6.6.6.6, 192.0.2.1", "192.0.2.1"),
        (f"6.6.6.6, 192.0.2.1, {FAR}", "192.0.2.1"),
        (f"192.0.2.1:99 ,{FAR}:80,[fd00::1]:1", "192.0.2.1"),
        (f"10.9.9.9, {FAR}", "10.9.9.9"),
        (f"6.6.6.6, unknown, {FAR}", FAR),
        ("6.6.6.6, _hidden", NEAR),
        ("6.6.6.6, ", NEAR),
        ("6.6.6.6, 192.0.2.1;x", NEAR),
        ("", NEAR),
    ],
)
def test_addresses_of_x_forwarded_for(given, address):
    assert read(x_forwarded_for=given).address == address


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("for=192.0.2.1", "192.0.2.1"),
        ('for=6.6.6.6, For="192.0.2.1:80";by=_x', "192.0.2.1"),
        (f'for=6.6.6.6, for="[2001:db8::1]:4711" , for={FAR}', "2001:db8::1"),
        ("for=192.0.2.1:80", "192.0.2.1"),
        ('for="_a, for=1.1.1.1", for=192.0.2.1', "192.0.2.1"),
        ('for=192.0.2.1;x="a,b;c\\"d"', "192.0.2.1"),
        ("for=192.0.2.1,,", "192.0.2.1"),
        (f"for=6.6.6.6, for=unknown, for={FAR}", FAR),
        (f"for=6.6.6.6, proto=http, for={FAR}", FAR),
        ("for=_hidden", NEAR),
        ("for=192.0.2.1;for=6.6.6.6", NEAR),
        ("for = 192.0.2.1", NEAR),
        ('for="192.0.2.1', NEAR),
        ("192.0.2.1", NEAR),
        ("", NEAR),
    ],
)
def test_addresses_of_forwarded(given, address):
    assert read("forwarded", forwarded=given).address == address


@pytest.mark.parametrize("poison", ['for="', 'for="a', 'x="', 'for=6.6.6.6;x="', 'for="\\', '"', "for=6.6.6.6;", "\\"])
def test_what_a_client_sends_does_not_change_what_the_proxy_appends(poison):
    for own in ("for=192.0.2.1", 'for="[2001:db8::1]";host="a.test"', 'for=192.0.2.1;x="a,for=7.7.7.7"'):
        address = "192.0.2.1" if "192" in own else "2001:db8::1"
        assert read("forwarded", forwarded=f"{poison}, {own}").address == address


@pytest.mark.parametrize(
    ("known", "scheme", "host"),
    [
        ({"x_forwarded_proto": "https", "x_forwarded_host": "a.test:8443"}, "https", b"a.test:8443"),
        ({"x_forwarded_proto": "HTTPS"}, "https", b"inner.test"),
        ({"x_forwarded_proto": "http, https"}, "https", b"inner.test"),
        ({"x_forwarded_proto": "gopher", "x_forwarded_host": 'a"b'}, "http", b"inner.test"),
        ({"x_forwarded_host": "evil.test, a.test"}, "http", b"a.test"),
        ({"x_forwarded_host": "[2001:db8::1]:80"}, "http", b"[2001:db8::1]:80"),
        ({"x_forwarded_host": "a" * 300}, "http", b"inner.test"),
        ({"forwarded": "for=6.6.6.6;proto=https;host=evil.test"}, "http", b"inner.test"),
    ],
)
def test_scheme_and_host_of_x_forwarded(known, scheme, host):
    sender = read(x_forwarded_for="192.0.2.1", **known)
    assert (sender.address, sender.scheme, sender.host) == ("192.0.2.1", scheme, host)


def test_scheme_and_host_are_those_of_the_clients_own_request():
    chain = {"x_forwarded_for": f"6.6.6.6, 192.0.2.1, {FAR}", "x_forwarded_proto": "ftp, https, http"}
    assert read(**chain, x_forwarded_host="evil.test, a.test, b.test")[:3] == ("192.0.2.1", "https", b"a.test")
    assert read(**chain, x_forwarded_host="a.test")[:3] == ("192.0.2.1", "https", b"a.test")
    given = f'for=192.0.2.1;proto=https;host="a.test", for={FAR};proto=http;host=b.test'
    assert read("forwarded", forwarded=given)[:3] == ("192.0.2.1", "https", b"a.test")
    # What one proxy does not say is as the next one has it.
    given = f"for=192.0.2.1, for={FAR};proto=https;host=b.test"
    assert read("forwarded", forwarded=given)[:3] == ("192.0.2.1", "https", b"b.test")
    assert read("forwarded", forwarded=f'x", {given.replace("192.0.2.1", FAR)}')[:3] == (FAR, "https", b"b.test")


def test_the_other_header_is_not_looked_at():
    assert read("forwarded", x_forwarded_for="192.0.2.1", x_forwarded_proto="https")[:2] == (NEAR, "http")
    assert read(forwarded="for=192.0.2.1;proto=https")[:2] == (NEAR, "http")


@pytest.mark.parametrize(
    ("scheme", "told", "seen"), [("ws", "https", "wss"), ("wss", "http", "ws"), ("ws", "wss", "wss")]
)
def test_a_websocket_keeps_a_scheme_of_its_own(scheme, told, seen):
    assert read(scheme=scheme, x_forwarded_proto=told).scheme == seen


addresses = st.ip_addresses().filter(lambda a: not TrustedProxies(TRUSTED, "")._trusts(str(a))).map(str)
proxies = st.sampled_from(["10.1.2.3", "10.0.0.9", "fd00::7", "127.0.0.1"])
anything = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=60)


@given(anything, addresses, st.lists(proxies, max_size=4))
@example('for="', "192.0.2.1", [])
def test_nothing_that_a_client_sends_moves_its_address(sent, client, chain):
    """It comes from ``client`` through these proxies, each of which appends what it sees, and has sent anything."""
    expected = address_of(client.encode())
    hops_ = [client, *chain]
    assert read(x_forwarded_for=", ".join([sent, *hops_])).address == expected
    quoted = [f'for="[{hop}]";host="a.test"' if ":" in hop else f"for={hop};host=a.test" for hop in hops_]
    sender = read("forwarded", forwarded=", ".join([sent, *quoted]))
    assert (sender.address, sender.host) == (expected, b"a.test")


@given(anything, anything, anything, st.sampled_from(["x-forwarded", "forwarded"]))
@example(",".join(["10.0.0.1"] * 20_000), "," * 20_000, "", "x-forwarded")
@example("", "", ",".join(["for=10.0.0.1"] * 5000), "forwarded")
@example("", "", '"' * 20_000 + "," * 20_000, "forwarded")
def test_whatever_comes_is_an_address_a_scheme_and_a_host(senders, schemes, other, header):
    sender = read(header, x_forwarded_for=senders, x_forwarded_proto=schemes, x_forwarded_host=other, forwarded=other)
    ip_address(sender.address)
    assert sender.scheme in ("http", "https")
    assert sender.host


def test_a_chain_is_followed_only_so_far():
    walked = []

    def trusts(address):
        walked.append(address)
        return True

    for header, name, entry in (("x-forwarded", XFF, b"10.0.0.1"), ("forwarded", b"forwarded", b"for=10.0.0.1")):
        walked.clear()
        client, is_client = client_of(hops(header, {name: b",".join([entry] * 1000)}), trusts)
        assert (client, len(walked)) == (Hop("10.0.0.1"), MOST_HOPS)
        assert not is_client


LOCAL = {b"host": b"localhost:8080"}


@pytest.mark.parametrize(
    ("peer", "known", "local"),
    [
        ("127.0.0.1", LOCAL, True),
        ("127.9.9.9", {b"host": b"127.0.0.1"}, True),
        ("::1", {b"host": b"[::1]:80"}, True),
        ("::ffff:127.0.0.1", {b"host": b"a.localhost"}, True),
        ("127.0.0.1", {}, True),
        ("::1:2", LOCAL, False),
        ("192.0.2.1", LOCAL, False),
        ("127.0.0.1", {b"host": b"evil.test"}, False),
        ("127.0.0.1", {b"host": b"127.0.0.1.evil.test"}, False),
        ("127.0.0.1", {**LOCAL, XFF: b"127.0.0.1"}, False),
        ("127.0.0.1", {**LOCAL, b"x-real-ip": b""}, False),
        ("127.0.0.1", {**LOCAL, b"x_forwarded_for": b"x"}, False),
        ("127.0.0.1", {**LOCAL, b"via": b"1.1 x"}, False),
    ],
)
def test_who_is_local(peer, known, local):
    assert is_local(peer, known) is local


@pytest.mark.parametrize(
    ("peer", "given", "host", "local"),
    [
        ("127.0.0.1", "127.0.0.1", "localhost", True),
        ("127.0.0.1", "192.0.2.1", "localhost", False),
        ("127.0.0.1", "127.0.0.1", "a.test", False),
        ("10.0.0.1", "127.0.0.1", "localhost", False),
        ("127.0.0.1", None, "localhost", False),
        ("127.0.0.1", "unknown, 127.0.0.1", "localhost", False),
        ("127.0.0.1", "x, 127.0.0.1", "localhost", False),
    ],
)
def test_who_is_local_behind_a_trusted_proxy(peer, given, host, local):
    known = {} if given is None else {"x_forwarded_for": given}
    assert read(peer=peer, x_forwarded_host=host, **known).local is local


@given(st.ip_addresses())
def test_loopback_is_what_the_standard_says(address):
    assert is_loopback(str(address)) == (getattr(address, "ipv4_mapped", None) or address).is_loopback
    trusted = TrustedProxies(TRUSTED, "x-forwarded")
    networks = [ip_network(network) for network in TRUSTED]
    if getattr(address, "ipv4_mapped", None) is None:
        assert trusted.trusts(str(address)) == any(address in network for network in networks)


@pytest.mark.parametrize("host", [b"localhost.evil.test", b"x", b"127.0.0.1@evil.test", b"[::1].test", b"", b"[::2]"])
def test_other_names_are_not_this_machine(host):
    assert not names_this_machine(host)
