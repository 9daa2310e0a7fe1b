"""`mesh bench`: how quickly does a URL answer, and how often?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from mesh.cli.exit import fail

if TYPE_CHECKING:
    from mesh.cli.http_load import BenchTarget, LoadGenerator, LoadResult


@click.command("bench", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("url")
@click.option(
    "-r", "--rate", type=click.FloatRange(0, 1e6), default=0.0, help="Requests per second; 0: all it answers."
)
@click.option("-c", "--connections", type=click.IntRange(1, 10_000), default=16, show_default=True)
@click.option(
    "-d", "--duration", type=click.FloatRange(0.1, 86_400), default=10.0, show_default=True, metavar="SECONDS"
)
@click.option("-X", "--method", help="HTTP method  [default: GET, with a body POST]")
@click.option("-H", "--header", "headers", multiple=True, help="'NAME: VALUE', a request header; repeatable.")
@click.option("--data", help="The body; @FILE reads it from a file.")
@click.option("--timeout", type=click.FloatRange(0.01, 3600), default=10.0, help="Of one request  [default: 10]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    url: str,
    rate: float,
    connections: int,
    duration: float,
    method: str | None,
    headers: tuple[str, ...],
    data: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Measure how quickly URL answers: requests per second, and the times that requests take.

    With --rate requests are sent at that rate whether or not the answers keep up, and a request's time counts from the
    moment when it was due: what had to wait shows. Without it, each connection sends when it has its answer, which
    finds the most that is possible and says little about waiting.

    \b
    Examples:
      mesh bench http://127.0.0.1:8080/jokes
      mesh bench http://127.0.0.1:8080/jokes --rate 2000 -d 30
      mesh bench http://127.0.0.1:8080/users --data '{"name": "ada"}'
      mesh bench http://127.0.0.1:8080/jokes --json | jq .p99_ms

    Exit codes: 0, 1 when a request failed (no answer, or a status of 400 or more), 2 for wrong usage.
    """
    import asyncio

    from mesh.cli.http_load import BenchTarget, LoadGenerator
    from mesh.service.run import loop_factory

    body = _body(data)
    try:
        target = BenchTarget.of(url, method or ("POST" if body else "GET"), _headers(headers), body)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    load = LoadGenerator(target, connections=connections, rate=rate, timeout_s=timeout)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            result = runner.run(_run(load, duration, not as_json and sys.stderr.isatty()))
    except OSError as error:
        fail(f"no connection to {target.host}:{target.port}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        result = load.result
    _print(target, result, rate, as_json)
    sys.exit(1 if result.failed or not result.histogram.count else 0)


async def _run(load: LoadGenerator, seconds: float, progress: bool) -> LoadResult:
    import asyncio

    async def tell() -> None:
        for second in range(1, int(seconds) + 1):
            await asyncio.sleep(1)
            click.echo(f"\r{second}/{seconds:g} s, {load.result.histogram.count:,} answered ", err=True, nl=False)

    telling = asyncio.create_task(tell()) if progress else None
    try:
        return await load.run(seconds)
    finally:
        if telling is not None:
            telling.cancel()
            click.echo("\r" + " " * 60 + "\r", err=True, nl=False)


def _body(data: str | None) -> bytes:
    if data is None or not data.startswith("@"):
        return (data or "").encode()
    try:
        with open(data[1:], "rb") as file:
            return file.read()
    except OSError as error:
        raise click.UsageError(f"--data: {data[1:]}: {error.strerror}") from None


def _headers(given: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in given:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise click.UsageError(f"--header {text!r}: write it as 'NAME: VALUE'")
        found[name.strip()] = value.strip()
    return found


def _print(target: BenchTarget, result: LoadResult, rate: float, as_json: bool) -> None:
    from mesh.cli.http_load import LATE_S
    from mesh.cli.terminal import Terminal

    terminal, figures = Terminal(sys.stdout), result.figures()
    if as_json:
        terminal.json({**figures, "rate": rate} if rate else figures)
    else:
        _show(terminal, figures, rate)
    if rate and result.late_s > LATE_S:
        click.echo(
            f"warning: this generator was up to {result.late_s * 1000:.0f} ms behind its own schedule, so the longest "
            "times are partly its own; use a lower --rate, or an idle machine",
            err=True,
        )


def _show(terminal: Any, figures: dict[str, Any], rate: float) -> None:
    wanted = f" of {rate:,.0f} wanted" if rate else ""
    terminal.line(f"{figures['requests']:,} answers in {figures['seconds']:.1f} s: {figures['rps']:,.0f}/s{wanted}")
    times = ("p50", "p90", "p99", "p999", "max")
    terminal.table(
        ["MEAN", "P50", "P90", "P99", "P99.9", "MAX"],
        [[f"{figures[f'{name}_ms']:.2f} ms" for name in ("mean", *times)]],
    )
    for status, count in figures["statuses"].items():
        terminal.line(terminal.paint(f"{count:,} x {status}", "green" if status < "400" else "red"))
    for why, count in figures["errors"].items():
        terminal.line(terminal.paint(f"{count:,} x {why}", "red"))
    if figures["unsent"]:
        terminal.line(terminal.paint(f"{figures['unsent']:,} were due and never sent", "red"))
