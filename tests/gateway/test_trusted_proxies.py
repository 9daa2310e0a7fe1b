"""Real proxies in front: what stands behind the gateway sees the client as it would behind the proxy alone."""

import asyncio
import contextlib
import re
import shutil
import signal
import ssl
import subprocess

import httpx
import pytest
from websockets.asyncio.client import connect

from mesh import Request, Service, WebSocket
from mesh.embedded import free_port
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.processes import run

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
pytestmark = [
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]

CLIENT = "127.0.0.9"
CONFIGURATION = """
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/cert.pem;
        ssl_certificate_key {folder}/key.pem;
        location / {{
            proxy_pass http://127.0.0.1:{to};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            {headers}
        }}
    }}
}}
"""
X_FORWARDED = """
proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
proxy_set_header X-Forwarded-Proto $scheme;
proxy_set_header X-Forwarded-Host $http_host;
"""
FORWARDED = """
proxy_set_header Forwarded '$http_forwarded, for=$remote_addr;proto=$scheme;host="$http_host"';
"""


@contextlib.asynccontextmanager
async def nginx(folder, to, headers):
    """nginx with TLS in front of the port ``to``; yields its own port."""
    names = ["-subj", "/CN=shop.test", "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names], check=True, capture_output=True
    )
    port = free_port()
    file = folder / "nginx.conf"
    file.write_text(CONFIGURATION.format(folder=folder, port=port, to=to, headers=headers))
    user = ["-g", "user root; daemon off;"] if (folder.owner() == "root") else ["-g", "daemon off;"]
    child = await asyncio.create_subprocess_exec(
        *(NGINX, "-p", str(folder), "-e", "stderr", "-c", str(file), *user),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                assert child.returncode is None, "nginx did not start"
                await asyncio.sleep(0.02)
        yield port
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGTERM)
        await child.wait()


def no_questions():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def client_of(port):
    """An HTTP client with an address of its own."""
    transport = httpx.AsyncHTTPTransport(verify=no_questions(), local_address=CLIENT)
    return httpx.AsyncClient(base_url=f"https://127.0.0.1:{port}", transport=transport, timeout=20)


@pytest.fixture
def gateway(header):
    return {"trusted_proxies": ("127.0.0.1",), "proxy_header": header}


# The header is the gateway's business and the interface the adapter's: each of both once.
@pytest.mark.parametrize(("header", "interface"), [("x-forwarded", "wsgi"), ("forwarded", "asgi")])
async def test_django_logs_in_and_posts_behind_tls(nats_url, prefix, tmp_path, interface, gateway, header):
    env = {"NATS_URL": nats_url, "MESH_PREFIX": prefix, "DJANGO_DATABASE": str(tmp_path / "db.sqlite3")}
    serve = ["serve", f"tests.adapters.django_app:{interface}", "--name", "site", "--prefix", "/"]
    async with (
        Mesh(nats_url=nats_url, prefix=prefix, gateway=gateway) as mesh,
        nginx(tmp_path, mesh.gateway.port, X_FORWARDED if header == "x-forwarded" else FORWARDED) as port,
        run(*serve, cwd=tmp_path, env=env),
        client_of(port) as http,
    ):
        own = f"shop.test:{port}"
        http.headers["host"] = own
        await mesh.until(lambda: any(i.state == "ready" for i in mesh.gateway.watcher.registry.instances("site")), 30)
        sent = {"x-forwarded-for": "6.6.6.6", "x-forwarded-proto": "http", "forwarded": "for=6.6.6.6;proto=http"}
        facts = (await http.get("/facts", headers=sent)).json()
        assert facts == {
            "url": f"https://{own}/facts",
            "secure": True,
            "host": own,
            "client": CLIENT,
            "forwarded": ["HTTP_X_REQUEST_ID"],
        }
        page = await http.get("/admin/login/?next=/admin/")
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)[1]
        form = {"csrfmiddlewaretoken": token, "username": "ada", "password": "lovelace", "next": "/admin/"}
        origin = {"origin": f"https://{own}", "referer": f"https://{own}/admin/login/"}
        logged_in = await http.post("/admin/login/", data=form, headers=origin)
        assert (logged_in.status_code, logged_in.headers["location"]) == (302, "/admin/")
        assert (await http.get("/admin/")).status_code == 200
        foreign = await http.post("/admin/login/", data=form, headers={**origin, "origin": "https://evil.test"})
        assert foreign.status_code == 403


@pytest.mark.parametrize("header", ["x-forwarded", "forwarded"])
@pytest.mark.parametrize("lane", ["direct", "asgi"])
async def test_nginx_is_believed_about_requests_and_websockets(nats_url, prefix, tmp_path, lane, gateway, header):
    service = Service("plain")

    @service.get("/plain")
    async def plain(request: Request) -> str:
        return request.header("mesh-forwarded")

    @service.websocket("/socket")
    async def socket(ws: WebSocket, request: Request) -> None:
        await ws.send(request.header("mesh-forwarded"))

    async with (
        Mesh(service, nats_url=nats_url, prefix=prefix, gateway={**gateway, "http_lane": lane}) as mesh,
        nginx(tmp_path, mesh.gateway.port, X_FORWARDED if header == "x-forwarded" else FORWARDED) as port,
        client_of(port) as http,
    ):
        host = f'host="127.0.0.1:{port}"'
        for sent in ({}, {"forwarded": 'for="'}, {"x-forwarded-for": "unknown, 6.6.6.6"}):
            assert (await http.get("/plain", headers=sent)).json() == f"for={CLIENT};proto=https;{host}"
        async with connect(f"wss://127.0.0.1:{port}/socket", ssl=no_questions(), local_addr=(CLIENT, 0)) as ws:
            assert await ws.recv() == f"for={CLIENT};proto=wss;{host}"
        await eventually(lambda: mesh.gateway.lifecycle.inflight == 0)
