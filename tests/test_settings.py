"""Settings: where values come from, and that every mistake is named without giving a secret away."""

import itertools
import pickle
from pathlib import Path

import pytest

from mesh.errors import ConfigError
from mesh.settings import (
    BusSettings,
    GatewaySettings,
    MeshSettings,
    ServiceSettings,
    documentation,
    find_file,
    foreign_variables,
    load_all,
)

ALL = (BusSettings, ServiceSettings, GatewaySettings)


def toml(folder, text):
    file = folder / "mesh.toml"
    file.write_text(text)
    return file


def problems(*classes, environ=None, file=None, flags=None):
    with pytest.raises(ConfigError) as caught:
        load_all(*(classes or ALL), environ=environ or {}, file=file, flags=flags)
    return caught.value.problems


def test_nothing_given_is_the_defaults():
    bus, service, gateway = load_all(*ALL, environ={}, file=None)
    assert (bus, service, gateway) == (BusSettings(), ServiceSettings(), GatewaySettings())
    assert bus.servers == ("nats://127.0.0.1:4222",)
    assert (service.heartbeat_ms, service.linger_ms, service.drain_s) == (2000, 500, 25)
    assert (gateway.host, gateway.port, gateway.ops_host, gateway.ops_port) == ("127.0.0.1", 8080, "127.0.0.1", 8081)


def test_flag_before_environment_before_file_before_default(tmp_path):
    file = toml(tmp_path, "[gateway]\nport = 1001\n")
    environ = {"PORT": "1002"}
    flags = {"port": 1003}
    assert GatewaySettings.load(environ={}, file=file).port == 1001
    assert GatewaySettings.load(environ=environ, file=file).port == 1002
    assert GatewaySettings.load(flags=flags, environ=environ, file=file).port == 1003
    assert GatewaySettings.load(flags={"port": None}, environ=environ, file=file).port == 1002


def test_the_more_particular_variable_wins_and_an_empty_one_is_not_set():
    assert GatewaySettings.load(environ={"PORT": "1", "MESH_GATEWAY_PORT": "2"}, file=None).port == 2
    assert GatewaySettings.load(environ={"PORT": "1", "MESH_GATEWAY_PORT": ""}, file=None).port == 1
    environ = {"LOG_LEVEL": "WARN", "MESH_LOG_LEVEL": ""}
    assert ServiceSettings.load(environ=environ, file=None).log_level == "warning"


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nats://a:1,tls://b:2", ("nats://a:1", "tls://b:2")),
        (" a:1 , nats://b ,", ("nats://a:1", "nats://b")),
        ("wss://a/path", ("wss://a/path",)),
        ("nats://u:p@[::1]:4222", ("nats://u:p@[::1]:4222",)),
    ],
)
def test_servers(text, servers):
    assert BusSettings.load(environ={"NATS_URL": text}, file=None).servers == servers


@pytest.mark.parametrize(
    "text", ["http://a", "nats://a:x", "nats://a:70000", "nats://", ",", "nats://a b", "nats://a/x"]
)
def test_bad_servers(text):
    (problem,) = problems(environ={"NATS_URL": text})
    assert "bus.servers (environment NATS_URL)" in problem
    assert repr(text) in problem
    assert "nats://, tls://, ws:// or wss://" in problem


def test_owners_from_both_places(tmp_path):
    file = toml(tmp_path, '[gateway.owners]\n"/api" = "users"\n"/x" = "y"\n')
    assert GatewaySettings.load(environ={}, file=file).owners == {"/api": "users", "/x": "y"}
    environ = {"MESH_OWNERS": "/a=b"}
    assert GatewaySettings.load(environ=environ, file=file).owners == {"/a": "b"}


@pytest.mark.parametrize("text", ["api=users", "/api", "/api=", "/a=b,/a=c", "/a=b c", "/a{x}=b"])
def test_bad_owners(text):
    assert "gateway.owners (environment MESH_OWNERS)" in problems(environ={"MESH_OWNERS": text})[0]


def test_origins():
    environ = {"MESH_CORS_ORIGINS": "https://a.example, http://localhost:3000"}
    found = GatewaySettings.load(environ=environ, file=None).cors_origins
    assert found == ("https://a.example", "http://localhost:3000")
    assert "https://app.example.com" in problems(environ={"MESH_CORS_ORIGINS": "https://a.example/"})[0]


def test_trusted_proxies():
    environ = {"MESH_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8,2001:DB8::/32", "MESH_PROXY_HEADER": "Forwarded"}
    found = GatewaySettings.load(environ=environ, file=None)
    assert found.trusted_proxies == ("127.0.0.1/32", "10.0.0.0/8", "2001:db8::/32")
    assert found.proxy_header == "forwarded"


@pytest.mark.parametrize("text", ["proxy.test", "10.0.0.1/8", "10.0.0.0/33", "*", "0.0.0.0/0", "::/0", "127.0.0.1:80"])
def test_bad_trusted_proxies(text):
    (problem,) = problems(environ={"MESH_TRUSTED_PROXIES": text})
    assert f"gateway.trusted_proxies (environment MESH_TRUSTED_PROXIES): {text!r} is not allowed" in problem
    assert "10.0.0.0/8" in problem


def test_a_header_of_nobody_is_a_mistake():
    assert problems(environ={"MESH_PROXY_HEADER": "forwarded"}) == [
        "gateway.proxy_header (environment MESH_PROXY_HEADER): is useless alone; give trusted_proxies too"
    ]
    assert "x-forwarded, forwarded" in problems(environ={"MESH_PROXY_HEADER": "x-real-ip"})[0]


@pytest.mark.parametrize("text", ["https://ops.test", "ops.test:8081", "a b"])
def test_bad_names_of_the_operators_plane(text):
    assert "gateway.ops_hosts (environment MESH_OPS_HOSTS)" in problems(environ={"MESH_OPS_HOSTS": text})[0]
    assert GatewaySettings.load(environ={"MESH_OPS_HOSTS": "OPS.test,*"}, file=None).ops_hosts == ("ops.test", "*")


def test_every_mistake_of_every_class_and_source_in_one_error(tmp_path):
    file = toml(
        tmp_path,
        '[gateway]\nport = "x"\nprot = 1\naccess_log = 1\n[service]\nheartbeat_ms = 100\nqueue = true\n'
        "[servcie]\na = 1\n[bus]\nprefix = 'a.b'\n",
    )
    environ = {"MESH_CONCURRENCY": "many", "MESH_HEARTBEATMS": "1", "NATS_NKEY": str(tmp_path / "none")}
    found = "\n".join(problems(environ=environ, file=file, flags={"max_target": 1}))
    for part in (
        "gateway.port (mesh.toml [gateway] port): 'x' is not allowed; give a whole number from 0 to 65535",
        "mesh.toml [gateway] prot: no such setting; did you mean port?",
        "gateway.access_log (mesh.toml [gateway] access_log): 1 is not allowed; give true or false",
        "service.heartbeat_ms (mesh.toml [service] heartbeat_ms): 100 is not allowed; give a whole number from 250",
        "service.queue (mesh.toml [service] queue): True is not allowed",
        "mesh.toml [servcie]: no such section; did you mean service?",
        "bus.prefix (mesh.toml [bus] prefix): 'a.b' is not allowed",
        "service.concurrency (environment MESH_CONCURRENCY): 'many' is not allowed",
        "environment MESH_HEARTBEATMS: no such setting; did you mean MESH_HEARTBEAT_MS?",
        "bus.nkey (environment NATS_NKEY)",
        "gateway.max_target (flag --max-target): 1 is not allowed",
    ):
        assert part in found
    assert len(found.splitlines()) == 11


def test_names_are_checked_for_classes_that_are_not_read_values_are_not(tmp_path):
    file = toml(tmp_path, "[gateway]\nport = 'x'\n")
    ServiceSettings.load(environ={"MESH_OPS_PORT": "x"}, file=file)
    assert problems(ServiceSettings, environ={"MESH_OPS_PROT": "1"}) == [
        "environment MESH_OPS_PROT: no such setting; did you mean MESH_OPS_PORT?"
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MESH_HEARTBEET_MS", "MESH_HEARTBEAT_MS"),
        ("MESH_HEARTBEAT", "MESH_HEARTBEAT_MS"),
        ("MESH_CONCURENCY", "MESH_CONCURRENCY"),
        ("MESH_NATS_URL", "NATS_URL"),
    ],
)
def test_a_misspelt_variable_is_a_mistake(name, meant):
    assert problems(environ={name: "1"}) == [f"environment {name}: no such setting; did you mean {meant}?"]


def test_a_variable_that_is_near_no_setting_is_warned_of_once(caplog, monkeypatch):
    monkeypatch.setattr("mesh.settings_reader._told", set())
    environ = dict.fromkeys(("MESH_TAIL", "MESH_NAMESPACE", "MESH_VERSION", "MESH_FLAVOUR_OF_OURS"), "1")
    for _ in range(3):
        assert GatewaySettings.load(environ=environ, file=None) == GatewaySettings()
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"environment {n}: no setting of the mesh has this name; it is ignored" for n in sorted(environ)]
    assert foreign_variables(environ) == sorted(environ)
    assert foreign_variables({"MESH_HEARTBEET_MS": "1", "MESH_NATS_PORT": "tcp://a:1", "MESH_PREFIX": "x"}) == []


def test_what_a_platform_says_of_its_neighbours_is_no_setting():
    """Kubernetes with a Service called mesh-gateway; one of these has the name of a setting."""
    environ = {
        "MESH_GATEWAY_PORT": "tcp://10.0.0.1:8080",
        "MESH_GATEWAY_SERVICE_HOST": "10.0.0.1",
        "MESH_GATEWAY_SERVICE_PORT": "8080",
        "MESH_GATEWAY_SERVICE_PORT_HTTP": "8080",
        "MESH_GATEWAY_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "MESH_GATEWAY_PORT_8080_TCP_ADDR": "10.0.0.1",
        "MESH_NATS_PORT": "tcp://10.0.0.2:4222",
        "PORT": "9000",
    }
    assert GatewaySettings.load(environ=environ, file=None).port == 9000


def test_secrets_show_nowhere(tmp_path):
    file = toml(tmp_path, "[bus]\ntoken = 4711\n")
    environ = {"NATS_PASSWORD": "hunter2", "NATS_URL": "nats://joe:hunter3@a:x"}
    found = "\n".join(problems(environ=environ, file=file))
    assert "bus.servers" in found
    assert "bus.token (mesh.toml [bus] token): the value (not shown) is not allowed" in found
    assert not any(secret in found for secret in ("hunter", "4711", "joe"))
    environ = {"NATS_USER": "joe", "NATS_PASSWORD": "hunter2 ", "NATS_URL": "nats://u:hunter3@a"}
    bus = BusSettings.load(environ=environ, file=None)
    assert bus.password == "hunter2 "
    assert "hunter" not in repr(bus)
    assert "user='joe'" in repr(bus)


def test_values_that_cannot_go_together(tmp_path):
    seed = tmp_path / "seed"
    seed.write_text("SU")
    environ = {"NATS_NKEY": str(seed), "NATS_TOKEN": "t", "NATS_CERT": str(seed), "NATS_URL": "ws://a,nats://b"}
    found = problems(BusSettings, GatewaySettings, environ={**environ, "PORT": "8081"})
    assert found == [
        "bus: nkey (environment NATS_NKEY), token (environment NATS_TOKEN) are different ways to log in;"
        " give one of them",
        "bus.tls_cert (environment NATS_CERT): is useless alone; give tls_key too",
        "bus.servers (environment NATS_URL): give either WebSocket URLs or others, not both kinds",
        "gateway: port (environment PORT) and ops_port (default) are both 8081 on 127.0.0.1;"
        " give each listener its own port",
    ]
    assert "bus.user (flag --user): is useless alone; give password too" in problems(BusSettings, flags={"user": "u"})


def test_paths_in_the_file_belong_to_its_folder(tmp_path, monkeypatch):
    (tmp_path / "ca.pem").write_text("x")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    file = toml(tmp_path, "[bus]\ntls_ca = 'ca.pem'\n")
    assert BusSettings.load(environ={}, file=file).tls_ca == tmp_path / "ca.pem"
    assert "bus.tls_ca" in problems(environ={"NATS_CA": "ca.pem"})[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"[gateway", "is not valid TOML"), (b"\xff", "is not UTF-8 text"), (b"gateway = 1", "must be a section")],
)
def test_a_file_that_is_no_configuration(tmp_path, content, says):
    file = tmp_path / "mesh.toml"
    file.write_bytes(content)
    assert says in problems(file=file)[0]


def test_which_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_file({}) is None
    toml(tmp_path, "")
    assert find_file({}) == Path("mesh.toml")
    assert find_file({"MESH_CONFIG": "other.toml"}) == Path("other.toml")
    assert find_file({"MESH_CONFIG": "other.toml"}, "mine.toml") == Path("mine.toml")
    assert "there is no such file" in problems(environ={"MESH_CONFIG": "other.toml"}, file=Path("other.toml"))[0]


def test_a_flag_without_a_setting_is_the_programs_mistake():
    with pytest.raises(TypeError, match="prot"):
        load_all(GatewaySettings, environ={}, file=None, flags={"prot": 1})


@pytest.mark.parametrize("word", ["1", "true", "YES", "on", True])
def test_switches(word):
    assert GatewaySettings.load(flags={"access_log": word}, environ={}, file=None).access_log is True


def test_numbers_have_bounds():
    for value in ("nan", "inf", "-1", "", True, [1]):
        assert "service.drain_s" in problems(flags={"drain_s": value})[0]
    assert ServiceSettings.load(environ={"MESH_DRAIN_S": "0.5"}, file=None).drain_s == 0.5


def test_settings_are_values():
    """Frozen, and they reach a spawned worker."""
    gateway = GatewaySettings()
    with pytest.raises(AttributeError):
        gateway.port = 1
    assert pickle.loads(pickle.dumps(gateway)) == gateway


def test_everything_is_documented_once():
    documented = list(documentation())
    names = [d.name for d in documented]
    variables = list(itertools.chain.from_iterable(d.env for d in documented))
    assert len(set(names)) == len(names)
    assert len(set(variables)) == len(variables)
    assert all(d.doc.endswith(".") and d.allowed and d.env for d in documented)
    port = next(d for d in documented if d.name == "gateway.port")
    assert (port.toml, port.default, port.env) == ("[gateway] port", "8080", ("MESH_GATEWAY_PORT", "PORT"))
    assert {d.name for d in documented if d.secret} == {"bus.password", "bus.token"}


@pytest.mark.parametrize("cls", ALL)
def test_every_default_would_be_accepted(cls: type[MeshSettings]):
    flags = {name: value for name, value in vars(cls()).items() if value is not None}
    assert cls.load(flags=flags, environ={}, file=None) == cls()
