"""Type checkers, run from a folder of somebody's own, find the library and know what comes back."""

import subprocess
import sys
import textwrap

import pytest

from tests.docs.pages import ROOT, blocks


def check(folder, *files):
    command = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={ROOT / '.mypy_cache' / 'users'}", *files]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110)


@pytest.mark.timeout(120)
def test_a_service_of_ones_own_is_checked_strictly(tmp_path):
    (tmp_path / "greeter.py").write_text(
        textwrap.dedent(
            """\
            from collections.abc import AsyncIterator

            from msgspec import Struct

            from mesh import Context, MeshClient, Service, WebSocket

            service = Service("greeter", version="1.0.0")

            class Size(Struct):
                words: int

            @service.get("/greet/{name}")
            async def greet(name: str, ctx: Context) -> Size:
                return await ctx.call("words", "count", text=name, timeout=2, returns=Size)

            @service.get("/sizes")
            async def sizes(ctx: Context) -> list[Size]:
                sizes = await ctx.call("words", "sizes", returns=list[Size])
                async for one in ctx.stream("words", "all", returns=Size):
                    sizes.append(one)
                return sizes

            @service.get("/file")
            async def file(ctx: Context) -> AsyncIterator[bytes]:
                async for piece in ctx.stream("files", "read"):
                    yield piece

            @service.websocket("/ws")
            async def ws(ws: WebSocket) -> None:
                size = await ws.receive_json(Size)
                reveal_type(size.words)

            async def main() -> None:
                async with MeshClient() as client:
                    reveal_type(await client.call("words", "count", returns=Size))
                    reveal_type(await client.call("words", "count", returns=Size | None))
                    reveal_type(await client.call("words", "count"))
            """
        )
    )
    # The tutorial's files, as a reader has them at its end.
    for block in blocks(ROOT / "docs" / "tutorial.md"):
        name = block.text.removeprefix("# ").partition(".py")[0]
        if block.language == "python" and name in ("memos", "words"):
            with (tmp_path / f"{name}.py").open("a") as file:
                file.write(block.text)
    done = check(tmp_path, "greeter.py", "memos.py", "words.py")
    said = [line.partition(": ")[2] for line in done.stdout.splitlines()]
    assert said[:-1] == [
        'note: Revealed type is "int"',
        'note: Revealed type is "greeter.Size"',
        'note: Revealed type is "Any"',
        'note: Revealed type is "Any"',
    ], done.stdout + done.stderr + "\nIs mesh installed as make setup does it?"
