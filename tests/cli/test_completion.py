"""What Tab does, in real shells."""

import asyncio
import fcntl
import os
import pty
import re
import shutil
import stat
import sys
import termios
import time

import pytest

from tests.cli.builders import responder, users

SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "--interactive"],
}
SET_UP = {
    "bash": "bind 'set bell-style none'; eval \"$(mesh completion bash)\"",
    "zsh": 'autoload -Uz compinit && compinit -u; eval "$(mesh completion zsh)"',
    "fish": "mesh completion fish | source",
}
PROGRAMS = {
    "mesh": "from mesh.cli.main import main; main()",
    "mesh-tail": "from mesh.cli.main import tail_main; tail_main()",
}


class Typist:
    """A person at a shell: types, presses Tab, and sees what the line has become."""

    def __init__(self, master, child):
        self._master = master
        self._child = child
        self._seen = b""
        os.set_blocking(master, False)

    async def _until(self, pattern, timeout=30):
        """What stood in the output where ``pattern`` was found."""
        end = time.monotonic() + timeout
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._master, arrived.set)
        try:
            while not (found := re.search(pattern, self._seen)):
                try:
                    async with asyncio.timeout(max(0.0, end - time.monotonic())):
                        await arrived.wait()
                except TimeoutError:
                    raise AssertionError(f"{pattern!r} is not in {self._seen!r}") from None
                arrived.clear()
                try:
                    self._seen += os.read(self._master, 65536)
                except BlockingIOError:
                    pass
        finally:
            loop.remove_reader(self._master)
        self._seen = self._seen[found.end() :]
        return found

    async def run(self, line):
        os.write(self._master, line.encode() + b"; echo do''ne\n")
        await self._until(rb"done")

    async def complete(self, line):
        """The line after Tab, as `echo` prints it: Ctrl-A goes to its beginning."""
        os.write(self._master, line.encode() + b"\t\x01echo '[[' \x05 ']]'\n")
        found = await self._until(rb"\[\[ ([^'\r\n]*?) *\]\]")
        return found[1].decode()

    async def end(self):
        self._child.kill()
        await self._child.wait()
        os.close(self._master)


def at_terminal():
    """In the shell's process: its standard input is the terminal that controls it, as at a desk."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture(params=SHELLS)
async def typist(request, shell, tmp_path):
    name = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    programs = tmp_path / "bin"
    programs.mkdir()
    for program, code in PROGRAMS.items():
        file = programs / program
        file.write_text(f"#!{sys.executable}\n{code}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "greeter.py").write_text("")
    (folder / "greeting.json").write_text("{}")
    environment = {**shell.environment, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "TERM": "xterm"}
    master, slave = pty.openpty()
    child = await asyncio.create_subprocess_exec(
        *SHELLS[name],
        cwd=folder,
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=at_terminal,
    )
    os.close(slave)
    typist = Typist(master, child)
    await typist.run(SET_UP[name])
    yield typist
    await typist.end()


async def test_files_names_and_commands(typist, mesh):
    instance = await mesh.start(users())
    expected = {
        "mesh rout": "mesh routes",
        "mesh run greeter": "mesh run greeter.py",
        "mesh call users greet -d @greeti": "mesh call users greet -d @greeting.json",
        "mesh info use": "mesh info users",
        "mesh stats use": "mesh stats users",
        "mesh drain gatew": "mesh drain gateway",
        f"mesh drain users.{instance.id[:6]}": f"mesh drain users.{instance.id}",
        "mesh call use": "mesh call users",
        "mesh call users gre": "mesh call users greet",
        "mesh routes --service use": "mesh routes --service users",
        "mesh-tail --serv": "mesh-tail --service",
        "mesh-tail --service use": "mesh-tail --service users",
    }
    for typed, line in expected.items():
        assert await typist.complete(typed) == line


async def test_without_nats_nothing_is_said_and_nobody_waits(shell):
    began = time.monotonic()
    asked = {"_MESH_COMPLETE": "bash_complete", "COMP_WORDS": "mesh info us", "COMP_CWORD": "2"}
    done = await shell(NATS_URL="nats://127.0.0.1:9", **asked)
    assert (done.out.strip(), done.err) == ("", "")
    assert time.monotonic() - began < 5  # a command would wait that long for a connection alone
    done = await shell(MESH_PREFIX="a.b", **asked)  # wrong settings
    assert (done.out.strip(), done.err) == ("", "")


async def test_names_that_a_shell_would_run_are_not_offered(shell, foreign):
    evil = {"name": "us$(touch x)", "id": "I1", "version": "1.0.0"}
    await foreign.bus.subscribe("$SRV.PING", responder(foreign.bus, evil))
    await foreign.bus.flush()
    done = await shell(_MESH_COMPLETE="bash_complete", COMP_WORDS="mesh info ", COMP_CWORD="2")
    offered = done.out.split()
    assert f"plain,{foreign.name}" in offered
    assert not any("$" in line for line in offered)


@pytest.mark.parametrize("name", SHELLS)
async def test_the_scripts_are_for_both_programs(shell, name):
    done = await shell("completion", name)
    assert (done.code, done.err) == (0, "")
    for word in ("_MESH_COMPLETE", "_MESH_TAIL_COMPLETE"):
        assert word in done.out
    assert {"bash": "-o default", "zsh": "_files", "fish": "__fish_complete_path (commandline -t)"}[name] in done.out
