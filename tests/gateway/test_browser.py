"""A browser's own EventSource, fetch and WebSocket through the gateway, in headless Chromium."""

import asyncio
import contextlib
import shutil
import signal

import pytest

from mesh import Event, Request, Response, Service, WebSocket
from mesh.testing import Mesh

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

PAGE = """<!doctype html><title>mesh</title><script type="module">
const results = {};

async function events() {
  const seen = [];
  const source = new EventSource("/events");
  return await new Promise((resolve) => {
    source.addEventListener("tick", (e) => seen.push([e.data, e.lastEventId]));
    source.addEventListener("done", () => { source.close(); resolve(seen); });
  });
}

async function resumed() {  // after the stream has ended the browser comes back by itself, with the last id
  const source = new EventSource("/resume");
  const seen = [];
  return await new Promise((resolve) => {
    source.onmessage = (e) => {
      seen.push(JSON.parse(e.data));
      if (seen.length === 2) { source.close(); resolve(seen); }
    };
  });
}

async function socket() {
  const ws = new WebSocket(`ws://${location.host}/socket/lobby`, ["other", "chat.v1"]);
  ws.binaryType = "arraybuffer";
  const got = [];
  return await new Promise((resolve) => {
    ws.onopen = () => { ws.send("text \\u2603"); ws.send(new Uint8Array([0, 1, 255])); ws.send("x".repeat(3000000)); };
    ws.onmessage = (e) => {
      got.push(typeof e.data === "string" ? e.data.slice(0, 20) + e.data.length : [...new Uint8Array(e.data)]);
      if (got.length === 3) ws.send("close");
    };
    ws.onclose = (e) => resolve({ got, protocol: ws.protocol, code: e.code, reason: e.reason, clean: e.wasClean });
  });
}

async function refused() {
  const ws = new WebSocket(`ws://${location.host}/nowhere`);
  return await new Promise((resolve) => { ws.onclose = (e) => resolve(e.code); });
}

async function stream() {  // a large body up, the same one down, piece by piece
  const body = new Uint8Array(3000000).map((_, at) => at % 251);
  const response = await fetch("/echo", { method: "POST", body });
  const reader = response.body.getReader();
  let size = 0, right = true;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return { size, right, status: response.status };
    for (let at = 0; at < value.length; at += 1009) right &&= value[at] === (size + at) % 251;
    size += value.length;
  }
}

try {
  for (const part of [events, resumed, socket, refused, stream]) results[part.name] = await part();
} catch (error) { results.error = String(error); }
const headers = { "content-type": "application/json" };
await fetch("/results", { method: "POST", headers, body: JSON.stringify(results) });
</script>
"""


def browsed(results: asyncio.Future) -> Service:
    service = Service("site")

    @service.get("/")
    async def page() -> Response:
        return Response(PAGE, content_type="text/html")

    @service.get("/events")
    async def events():
        for number in range(3):
            yield Event(f"line {number}\nand \N{SNOWMAN}", event="tick", id=str(number))
        yield Event(event="done")

    @service.get("/resume")
    async def resume(request: Request):
        last = request.header("last-event-id")
        yield Event({"last": last}, id="41", retry=10)

    @service.websocket("/socket/{room}")
    async def socket(ws: WebSocket, room: str) -> None:
        await ws.accept("chat.v1")
        async for message in ws:
            if message == "close":
                await ws.close(4001, f"left {room}")
            else:
                await ws.send(message)

    @service.post("/echo")
    async def echo(body: bytes) -> bytes:
        return body

    @service.post("/results", status=204)
    async def take(body: dict) -> None:
        results.set_result(body)

    return service


@contextlib.asynccontextmanager
async def chromium(url, profile):
    child = await asyncio.create_subprocess_exec(
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}", url),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        child.send_signal(signal.SIGTERM)
        await child.wait()


async def test_a_browser_streams_resumes_and_talks(nats_url, prefix, tmp_path):
    results = asyncio.get_running_loop().create_future()
    async with Mesh(browsed(results), nats_url=nats_url, prefix=prefix) as mesh, chromium(mesh.url, tmp_path):
        seen = await asyncio.wait_for(results, 50)
    assert seen == {
        "events": [[f"line {n}\nand \N{SNOWMAN}", str(n)] for n in range(3)],
        "resumed": [{"last": None}, {"last": "41"}],
        "socket": {
            "got": ["text \N{SNOWMAN}6", [0, 1, 255], "x" * 20 + "3000000"],
            "protocol": "chat.v1",
            "code": 4001,
            "reason": "left lobby",
            "clean": True,
        },
        "refused": 1006,
        "stream": {"size": 3_000_000, "right": True, "status": 200},
    }
