"""Follows a page as its reader would: writes its files, runs its services, pastes its commands, runs its tests."""

import ast
import asyncio
import importlib
import inspect
import json
import re
import shlex
import sys
import types
from collections.abc import Container
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType

import click
import httpx

from mesh import MeshClient, Service, adapt
from mesh.cli.examples import examples
from mesh.cli.main import mesh as mesh_command
from mesh.cli.tail import command as tail_command
from mesh.cli.up import SERVICES
from mesh.service import ServiceInstance
from mesh.settings import BusSettings, GatewaySettings, ServiceSettings, load_all
from mesh.testing import Mesh, PausedClock
from tests.docs.pages import ROOT, Block

FILE = re.compile(r"# ([a-z_]+)\.py(, continued)?\n")
GATEWAY, OPERATOR = "http://127.0.0.1:8080", "http://127.0.0.1:8081"
EXAMPLES = {"gateway", *(name.split("-")[0] for name, _ in SERVICES), *(e.name for e in examples(ROOT))}
"""The names that `make up` uses, on a machine with every toolchain."""
OTHERS = {".", "export", "pytest", "jq", "kill", "nats"}
"""Programs that a command line may name besides ours; what they are given cannot be checked."""
ANY = "..."
"""Stands for any value in a JSON block that shows an answer."""
STATUS = re.compile(r"#.*?\b([1-5]\d\d)\b")


class Reader:
    """Reads the blocks of one page in their order. ``fresh`` makes a mesh on the shared NATS."""

    def __init__(self, page: str, fresh, patch) -> None:
        self._page = ModuleType(f"page_{re.sub('[^a-z0-9]', '_', page.lower())}")
        self._fresh = fresh
        self._patch = patch
        self._modules: dict[str, ModuleType] = {}
        self._stack = AsyncExitStack()
        self._mesh: Mesh | None = None
        self._running: dict[str, tuple[object, ServiceInstance]] = {}
        self._answer: httpx.Response | None = None
        self._tested: set[object] = set()
        patch.setitem(sys.modules, self._page.__name__, self._page)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *failure):
        await self._stack.aclose()

    async def read(self, block: Block, folder: Path) -> None:
        answer, self._answer = self._answer, None
        if block.language == "python":
            await self._python(block)
        elif block.language == "sh":
            await self._shell(block)
        elif block.language == "json":
            shown = json.loads(block.text)
            if answer is not None and block.follows:
                agree(shown, answer.json())
        elif block.language == "toml":
            file = folder / "mesh.toml"
            file.write_text(block.text, encoding="utf-8")
            load_all(BusSettings, ServiceSettings, GatewaySettings, environ={}, file=file)
        else:
            assert block.language in ("", "text"), f"nobody checks {block.language!r}"

    async def finish(self) -> None:
        """Run what no command of the page has made run yet."""
        await self._run_services()

    # -- Python

    async def _python(self, block: Block) -> None:
        found = FILE.match(block.text)
        module = self._page
        if found:
            name, continued = found.groups()
            assert bool(continued) == (name in self._modules), f"{name}.py is new, or goes on?"
            module = self._modules.setdefault(name, ModuleType(name))
            self._patch.setitem(sys.modules, name, module)
        code = compile("\n" * (block.line - 1) + block.text, f"{self._page.__name__}.md", "exec")
        if "asyncio.run(" in block.text:
            await self._run_services()
        before = set(vars(module))
        await asyncio.to_thread(exec, code, vars(module))  # a thread of its own, for what calls asyncio.run
        defined = {node.name for node in ast.parse(block.text).body if hasattr(node, "name")}
        for name in defined | (set(vars(module)) - before):
            value = getattr(module, name)
            if name.startswith("test_") and isinstance(value, types.FunctionType) and value not in self._tested:
                self._tested.add(value)
                await self._test(value)

    async def _test(self, function) -> None:
        async with AsyncExitStack() as stack:
            given = {}
            wanted = inspect.signature(function).parameters
            if {"mesh", "client"} & wanted.keys():
                mesh = given["mesh"] = await stack.enter_async_context(self._fresh())
                if "client" in wanted:
                    given["client"] = await stack.enter_async_context(MeshClient(mesh.bus_settings))
            if "clock" in wanted:
                given["clock"] = stack.enter_context(PausedClock())
            result = function(**{name: given[name] for name in wanted})
            if inspect.isawaitable(result):
                await result

    async def _run_services(self) -> Mesh:
        """A mesh with the example services of `make up` and everything that the page has declared by now."""
        if self._mesh is None:
            self._mesh = await self._stack.enter_async_context(self._fresh())
            for example in running_examples():
                await self._mesh.start(example)
            settings = self._mesh.bus_settings
            self._patch.setenv("NATS_URL", settings.servers[0])
            self._patch.setenv("MESH_PREFIX", settings.prefix)
        for module in (self._page, *self._modules.values()):
            for value in list(vars(module).values()):
                if isinstance(value, Service):
                    await self._run(value)
        return self._mesh

    async def _run(self, service: Service) -> None:
        parts = (service.endpoints, service.subscriptions, service.layers, service.checks, service.startup_hooks)
        declared = (id(service), sum(len(e.routes) for e in service.endpoints.values()), *map(len, parts))
        known = self._running.get(service.name)
        if known is not None and known[0] == declared:
            return
        assert service.name not in EXAMPLES, f"the page's {service.name} would share the work of an example service"
        instance = await self._mesh.start(service)
        if known is not None:
            await known[1].drain()
        self._running[service.name] = declared, instance
        self._mesh.gateway.live_routes.update_now()
        assert not self._mesh.gateway.live_routes.conflicts, (
            "the page claims a route of an example service, or one twice"
        )

    # -- command lines

    async def _shell(self, block: Block) -> None:
        for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
            for words in commands(line):
                if words[0] == "curl":
                    status = STATUS.search(line)
                    await self._curl(words[1:], int(status[1]) if status else None)
                else:
                    check_command(words, self._modules)

    async def _curl(self, words: list[str], status: int | None) -> None:
        method, url, headers, data = read_curl(words)
        mesh = await self._run_services()
        base = next((base for base in (GATEWAY, OPERATOR) if url.startswith(base + "/")), None)
        assert base, f"{url}: curl asks the gateway or its operator's plane"
        url = url.replace(base, mesh.url if base == GATEWAY else mesh.ops_url)
        self._answer = await mesh.http.request(method, url, headers=headers, content=data)
        wanted = status or self._answer.status_code
        assert self._answer.status_code == wanted, self._answer.text
        assert status or wanted < 400, f"{url} answered {wanted}: {self._answer.text}"


def running_examples() -> list[Service]:
    """The services in Python that `make up` runs, in the number that it does."""
    from services.notes.app import app

    native = [importlib.import_module(module).service for _, module in SERVICES]
    return [*native, adapt(app, name="notes").service]


def read_curl(words: list[str]):
    """Method, URL, headers and body of a curl command line. Raises on an option that is not known here."""
    method, url, headers, data = "", "", [], None
    left = iter(words)
    for word in left:
        if word in ("-X", "--request"):
            method = next(left)
        elif word in ("-H", "--header"):
            name, _, value = next(left).partition(":")
            headers.append((name.strip(), value.strip()))
        elif word in ("-b", "--cookie"):
            headers.append(("cookie", next(left)))
        elif word in ("-d", "--data", "--data-binary", "--json"):
            data = next(left)
            kind = "application/json" if word == "--json" else "application/x-www-form-urlencoded"
            if not any(name.lower() == "content-type" for name, _ in headers):
                headers.append(("content-type", kind))
        elif word == "-I":
            method = "HEAD"
        elif word not in ("-i", "-s", "-v"):
            assert not word.startswith("-"), f"curl {word}"
            url = word
    return method or ("POST" if data is not None else "GET"), url, headers, data


def commands(line: str) -> list[list[str]]:
    """The commands of one line: its parts between ``|`` and ``&&``, without comments and variables in front."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= {"|", "&"}:
            found.append([])
        else:
            found[-1].append(word)
    for words in found:
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
    return [words for words in found if words]


def check_command(words: list[str], modules: Container[str] = ()) -> None:
    """Fail for a command line of ours that could not be run. ``modules`` are the files that the page has written."""
    program, *rest = words
    if program in ("mesh", "mesh-tail"):
        command = tail_command
        if program == "mesh":
            with click.Context(mesh_command, info_name="mesh") as parent:
                _, command, rest = mesh_command.resolve_command(parent, rest)
        try:
            command.make_context(program, list(rest))
        except click.exceptions.Exit:
            pass  # --help
    elif program == "make":
        [target] = rest
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), f"make {target}"
    elif program == "python":
        file = rest[0] if rest[0] != "-m" else rest[1].replace(".", "/") + ".py"
        assert file.removesuffix(".py") in modules or (ROOT / file).is_file(), file
    else:
        assert program in OTHERS, f"nobody checks {program!r}"


def agree(shown, answered, where: str = "$") -> None:
    """Whether an answer is as the page shows it; members that the page leaves out may be there."""
    if shown == ANY:
        return
    if isinstance(shown, dict):
        assert isinstance(answered, dict), where
        for key, value in shown.items():
            assert key in answered, f"{where}.{key} is not in the answer: {answered}"
            agree(value, answered[key], f"{where}.{key}")
    elif isinstance(shown, list):
        assert isinstance(answered, list), where
        assert len(shown) == len(answered), f"{where}: {answered}"
        for index, (one, other) in enumerate(zip(shown, answered, strict=True)):
            agree(one, other, f"{where}[{index}]")
    else:
        assert shown == answered, f"{where}: the page says {shown!r}, the answer is {answered!r}"
