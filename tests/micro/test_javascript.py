"""The official JavaScript client discovers a service, calls it, and understands its errors and figures."""

import asyncio
import json
from pathlib import Path

import pytest

from mesh import NotFound, Service
from tests.micro.packages import installed

HERE = Path(__file__).parent / "js"


@pytest.fixture(scope="module")
def check():
    """The path of ``check.mjs`` in a folder where its packages are installed, kept between runs."""
    return installed(HERE, "package.json", "check.mjs") / "check.mjs"


def library() -> Service:
    service = Service("library", version="2.0.1", description="lends books", metadata={"town": "Ulm"})
    shelf = service.group("shelf", queue_group="keepers")

    @shelf.endpoint(metadata={"kind": "query"})
    async def find(title: str) -> dict[str, str]:
        if title == "none":
            raise NotFound("no such book")
        return {"title": title}

    @service.endpoint(queue_group=None)
    async def crash() -> None:
        raise RuntimeError("a secret")

    return service


async def test_the_javascript_client_sees_a_service(check, start, nats_url, prefix):
    instance, second = await start(library()), await start(library())
    crash = f"{prefix}.to.library.{instance.id}.crash"
    find = f"{prefix}.to.library.{instance.id}.find"
    requests = ['shelf.find {"title": "Emma"}', f'{find} {{"title": "none"}}', f"{crash} {{}}", "shelf.find {}"]
    node = await asyncio.create_subprocess_exec(
        *("node", str(check), nats_url, "library", instance.id, *requests),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(node.communicate(), 30)
    assert node.returncode == 0, errors.decode()
    seen = json.loads(output)

    identity = {
        "name": "library",
        "id": instance.id,
        "version": "2.0.1",
        "metadata": {"town": "Ulm", "mesh.prefix": prefix},
    }
    both = {instance.id, second.id}
    assert both <= {ping["id"] for ping in seen["everybody"]}
    assert sorted(ping["id"] for ping in seen["ping"]) == sorted(both)
    assert {"type": "io.nats.micro.v1.ping_response", **identity} in seen["ping"]

    assert seen["info"] == [
        {
            "type": "io.nats.micro.v1.info_response",
            **identity,
            "description": "lends books",
            "endpoints": [
                {"name": "find", "subject": "shelf.find", "queue_group": "keepers", "metadata": {"kind": "query"}},
                {"name": "crash", "subject": f"{prefix}.req.library.crash", "queue_group": "", "metadata": {}},
            ],
        }
    ]

    found, missing, crashed, unusable = seen["calls"]
    assert (json.loads(found["data"]), found["error"]) == ({"title": "Emma"}, None)
    assert missing["error"] == {"code": 404, "message": "no such book"}
    assert crashed["error"]["code"] == 500
    assert "secret" not in json.dumps(crashed)
    assert unusable["error"]["code"] == 422

    [stats] = seen["stats"]
    assert stats["type"] == "io.nats.micro.v1.stats_response"
    crashes = stats["endpoints"][1]
    assert (crashes["num_requests"], crashes["num_errors"], crashes["last_error"]) == (1, 1, "500:RuntimeError")
    assert crashes["processing_time"] == crashes["average_processing_time"] > 0
    assert seen["nobody"] == "NoRespondersError"
