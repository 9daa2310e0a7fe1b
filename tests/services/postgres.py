"""A PostgreSQL of the tests' own, from the binaries that Debian's package installs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name.split(".")[0]))


class Cluster:
    """One server on a Unix socket in a temporary folder; gone with `close`. As root it runs as somebody else."""

    def __init__(self, binaries: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self.user = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            self.user = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(self.folder, "postgres", "postgres")
        self.child = None
        try:
            self._start(binaries)
        except BaseException:
            self.close()
            raise

    def _start(self, binaries: Path) -> None:
        data = self.folder / "data"
        initdb = [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=self.folder, **self.user)
        options = {
            "listen_addresses": "",
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "max_connections": 60,
            "shared_buffers": "16MB",
        }
        settings = [f"--{name}={value}" for name, value in options.items()]
        self.log = open(self.folder / "log", "wb")  # noqa: SIM115
        self.child = subprocess.Popen(
            [binaries / "postgres", "-D", data, *settings], cwd=self.folder, stderr=self.log, **self.user
        )
        deadline = time.monotonic() + 20
        while subprocess.run([binaries / "pg_isready", "-q", "-h", self.folder]).returncode:
            if self.child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def url(self, database: str = "postgres") -> str:
        """As people write it; the scheme without a driver."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def close(self) -> None:
        if self.child is not None:
            self.child.send_signal(signal.SIGINT)  # fast shutdown: ends connections, then itself
            try:
                self.child.wait(10)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
            self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
