"""All contestants on one machine in one interleaved run: ``python -m bench --help``."""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click

from bench import load, report
from bench.contestants import ALL, Contestant
from bench.processes import cpu_s

RESULTS = Path(__file__).parent / "results.json"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", default=3, show_default=True, help="Runs of everything; medians are reported.")
@click.option("--seconds", default=4, show_default=True, help="Length of one run.")
@click.option("--connections", default="", help="Connections, with commas  [default: 64, and for get 1,4,64,256]")
@click.option("--work", "names", default="", help=f"Which work, with commas: {', '.join(load.works())}  [default: all]")
@click.option("--only", default="", help="Which contestants: parts of their names, with commas  [default: all]")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Where the figures go, as JSON.")
@click.option("--page", type=click.Path(path_type=Path), help="A page whose results, and their plot, are replaced.")
def main(rounds: int, seconds: int, connections: str, names: str, only: str, out: Path, page: Path | None) -> None:
    """Measure this project beside its peers.

    \b
    Examples:
      python -m bench
      python -m bench --work get,post --connections 1,64,256
      python -m bench --only mesh,nginx --work up-900k --rounds 5
    """
    every = load.works()
    unknown = [name for name in names.split(",") if name and name not in every]
    if unknown:
        raise click.ClickException(f"there is no work {', '.join(unknown)}; there is {', '.join(every)}")
    works = [every[name] for name in names.split(",") if name] or list(every.values())
    wanted = [c for c in ALL if not only or any(part.strip().lower() in c.name.lower() for part in only.split(","))]
    given = [int(count) for count in connections.split(",") if count]
    counts = {work.name: given or ([1, 4, 64, 256] if work.name == "get" else [64]) for work in works}
    document = asyncio.run(_run(wanted, works, counts, rounds, seconds))
    document["command"] = f"python -m bench {' '.join(sys.argv[1:])}".strip()
    report.write(document, out)
    if page is not None:
        report.write_page(document, page)
    click.echo(report.tables(document))


async def _run(
    wanted: list[type[Contestant]], works: list[load.Work], counts: dict[str, list[int]], rounds: int, seconds: int
) -> dict[str, Any]:
    runs: Runs = {}
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            contestants = []
            for kind in wanted:
                contestant = kind(folder)
                if missing := contestant.missing():
                    skipped[kind.name] = missing
                    click.echo(f"left out: {kind.name}: needs {missing}", err=True)
                    continue
                await contestant.start(stack)
                contestants.append(contestant)
            for contestant in contestants:
                await _warm(contestant, works)
            for number in range(rounds):
                for work in works:
                    for count in counts[work.name]:
                        for turn in range(TURNS if (work.name, count) in AIMED else 1):
                            # To and fro, so that nobody always follows the same one.
                            for contestant in contestants if (number + turn) % 2 == 0 else reversed(contestants):
                                if work.name in contestant.leaves_out:
                                    continue
                                found = await _measure(contestant, work, count, seconds)
                                runs.setdefault((work.name, contestant.name, count), []).append(found)
                click.echo(f"round {number + 1} of {rounds} done", err=True)
            half = await _half(contestants, works, runs, rounds, seconds)
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, CPython {platform.python_version()}",
        "rounds": rounds,
        "seconds": seconds,
        "left_out": skipped,
        "results": [
            {
                **{"work": work, "contestant": contestant, "connections": count},
                **_median(found),
                **_against(runs.get((work, "mesh", count)), found),
            }
            for (work, contestant, count), found in runs.items()
        ],
        "half_load": half,
    }


AIMED = (("get", 64), ("post", 64))
"""Work and connections for which there are aims: measured `TURNS` times in every round."""
TURNS = 3

Runs = dict[tuple[str, str, int], list[dict[str, Any]]]


async def _half(
    contestants: list[Contestant], works: list[load.Work], runs: Runs, rounds: int, seconds: int
) -> list[dict[str, Any]]:
    """Times at half of the most that each one answered, from an open loop: those say how it feels."""
    work = next((work for work in works if work.name == "get"), None)
    if work is None:
        return []
    peaks = {c: runs.get(("get", c.name, 64)) for c in contestants if c.open_loop}
    rates = {c: round(statistics.median(run["rps"] for run in peak) / 2) for c, peak in peaks.items() if peak}
    seen: dict[Contestant, list[load.Result]] = {contestant: [] for contestant in rates}
    for _ in range(2 * rounds + 1):
        for contestant, rate in rates.items():
            seen[contestant].append(await contestant.load(work, 64, seconds, rate))
    return [
        {
            **{"contestant": contestant.name, "rate": rates[contestant]},
            **{key: round(statistics.median(getattr(s, key) for s in found), 2) for key in ("rps", "p50", "p99")},
            "p99_to_p50": round(statistics.median([s.p99 / s.p50 for s in found if s.p50] or [0.0]), 2),
        }
        for contestant, found in seen.items()
    ]


async def _warm(contestant: Contestant, works: list[load.Work]) -> None:
    """Until every kind of work is answered without errors."""
    for work in works:
        if work.name in contestant.leaves_out:
            continue
        for _ in range(100):
            seen = await contestant.load(work, 8, 1)
            if seen.requests and not seen.errors:
                break
        else:
            raise RuntimeError(f"{contestant.name} does not answer {work.name}: {seen}")


async def _measure(contestant: Contestant, work: load.Work, count: int, seconds: int) -> dict[str, Any]:
    before = {role: cpu_s(pid) for role, pid in contestant.pids.items()}
    seen = await contestant.load(work, count, seconds)
    used = {role: (cpu_s(pid) - before[role]) / max(1, seen.requests) * 1e6 for role, pid in contestant.pids.items()}
    return {**seen._asdict(), "cpu_us": used}


def _against(own: list[dict[str, Any]] | None, found: list[dict[str, Any]]) -> dict[str, float]:
    """This project's CPU and requests a second against a contestant's: medians over runs that followed each other, as
    the machine is never equally fast for long."""
    if own is None or own is found:
        return {}
    pairs = [(a, b) for a, b in zip(own, found, strict=True) if b["requests"] and a["requests"]]
    if not pairs:
        return {}
    cpu = statistics.median(sum(a["cpu_us"].values()) / sum(b["cpu_us"].values()) for a, b in pairs)
    return {"cpu_ratio": round(cpu, 3), "rps_ratio": round(statistics.median(a["rps"] / b["rps"] for a, b in pairs), 3)}


def _median(found: list[dict[str, Any]]) -> dict[str, Any]:
    middle = {key: round(statistics.median(f[key] for f in found), 2) for key in ("rps", "p50", "p99", "p999")}
    cpu = {role: round(statistics.median(f["cpu_us"][role] for f in found), 1) for role in found[0]["cpu_us"]}
    total = round(statistics.median(sum(f["cpu_us"].values()) for f in found), 1)
    return {**middle, "cpu_us": cpu, "cpu_total_us": total, "errors": sum(f["errors"] for f in found)}


if __name__ == "__main__":
    main()
