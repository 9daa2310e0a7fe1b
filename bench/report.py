"""The figures as JSON, as a table, and as a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write(document: dict[str, Any], path: Path) -> None:
    """Keep the results."""
    path.write_text(json.dumps(document, indent=1) + "\n")


def table(document: dict[str, Any]) -> str:
    """Markdown: one table for each kind of work and number of connections."""
    parts = []
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for result in document["results"]:
        groups.setdefault((result["work"], result["connections"]), []).append(result)
    for (work, connections), results in groups.items():
        own = next((r for r in results if r["contestant"] == "mesh"), None)
        parts.append(f"\n{work}, {connections} connection{'s' if connections > 1 else ''}\n")
        parts.append("| | requests/s | p50 ms | p99 ms | p99.9 ms | gateway | service | NATS | total us | mesh / it |")
        parts.append("|---|---|---|---|---|---|---|---|---|---|")
        for r in results:
            cpu = r["cpu_us"]
            cells = [f"{cpu[role]:.0f}" if role in cpu else "" for role in ("gateway", "service", "nats-server")]
            ratio = f"{own['cpu_total_us'] / r['cpu_total_us']:.2f}" if own and r is not own else ""
            wrong = f" ({r['errors']} errors)" if r["errors"] else ""
            parts.append(
                f"| {r['contestant']}{wrong} | {r['rps']:,.0f} | {r['p50']:.2f} | {r['p99']:.2f} | {r['p999']:.2f} | "
                f"{' | '.join(cells)} | {r['cpu_total_us']:.0f} | {ratio} |"
            )
    return "\n".join(parts)
