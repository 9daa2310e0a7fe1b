"""The shapes of NATS ADR-32's responses, and how a client that knows nothing of the mesh asks for them."""

import json
import re

from nats.errors import NoRespondersError

VERBS = ("PING", "INFO", "STATS")
NAME = r"[A-Za-z0-9_-]+"
SEMVER = r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?"
RFC3339_UTC = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z"
COUNT = range(2**63)
TEXT = r"[^\0]*"
STRINGS = {TEXT: TEXT}

IDENTITY = {"name": NAME, "id": NAME, "version": SEMVER, "metadata": STRINGS}
ENDPOINT = {"name": NAME, "subject": r"[!-~]+", "queue_group": r"[!-~]*"}
FIGURES = {
    "num_requests": COUNT,
    "num_errors": COUNT,
    "last_error": r"|\d+:.+",
    "processing_time": COUNT,
    "average_processing_time": COUNT,
}
SHAPES = {
    "PING": {"type": r"io\.nats\.micro\.v1\.ping_response", **IDENTITY},
    "INFO": {
        "type": r"io\.nats\.micro\.v1\.info_response",
        **IDENTITY,
        "description": TEXT,
        "endpoints": [{**ENDPOINT, "metadata": STRINGS}],
    },
    "STATS": {
        "type": r"io\.nats\.micro\.v1\.stats_response",
        **IDENTITY,
        "started": RFC3339_UTC,
        "endpoints": [{**ENDPOINT, **FIGURES}],
    },
}
OPTIONAL = {"data"}  # what a statistics handler gives; any JSON


def misfits(value, shape, where="response"):
    """Every way in which a decoded JSON value is not of a shape; lists hold values of one shape."""
    if isinstance(shape, str):
        if not isinstance(value, str):
            return [f"{where} is {value!r}, no string"]
        return [] if re.fullmatch(shape, value) else [f"{where} is {value!r}, not {shape}"]
    if isinstance(shape, range):
        return [] if type(value) is int and value in shape else [f"{where} is {value!r}, no integer of {shape}"]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{where} is {value!r}, no array"]
        return [m for i, item in enumerate(value) for m in misfits(item, shape[0], f"{where}[{i}]")]
    if not isinstance(value, dict):
        return [f"{where} is {value!r}, no object"]
    if shape is STRINGS:
        return [m for key in value for m in misfits(value[key], TEXT, f"{where}.{key}")]
    differing = (set(value) ^ set(shape)) - OPTIONAL
    found = [f"{where} {'has' if key in value else 'lacks'} {key!r}" for key in sorted(differing)]
    return found + [m for key in shape if key in value for m in misfits(value[key], shape[key], f"{where}.{key}")]


async def asked(outsider, verb, instance):
    reply = await outsider.call(f"$SRV.{verb}.{instance.service.name}.{instance.id}", b"")
    return json.loads(reply.data)


async def figures(outsider, instance, endpoint):
    stats = await asked(outsider, "STATS", instance)
    return next(e for e in stats["endpoints"] if e["name"] == endpoint)


async def refuses(outsider, subject):
    """Whether nobody at all listens there."""
    try:
        await outsider.call(subject)
    except NoRespondersError:
        return True
    return False
