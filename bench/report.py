"""The figures as JSON, as tables, and as a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- results of the benchmark -->", "<!-- end of the results -->"
ROLES = {"gateway": "#3b6ea5", "service": "#6aa84f", "nats-server": "#e69138"}
UNITS = {"events": "events"}


def write(document: dict[str, Any], path: Path) -> None:
    """Keep the results."""
    path.write_text(json.dumps(document, indent=1) + "\n")


def write_page(document: dict[str, Any], page: Path) -> None:
    """Put tables and plot in place of the results that a page has, between two comments."""
    plot_file = page.with_suffix(".svg")
    plot_file.write_text(plot(document))
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    facts = f"{document['machine']}; {document['rounds']} rounds of {document['seconds']} s; `{document['command']}`."
    picture = f"![CPU for each request]({plot_file.name})"
    page.write_text(f"{before}{BEGIN}\n\n{facts}\n\n{picture}\n{tables(document)}\n\n{END}{after}")


def _groups(document: dict[str, Any]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for result in document["results"]:
        groups.setdefault((result["work"], result["connections"]), []).append(result)
    return groups


def tables(document: dict[str, Any]) -> str:
    """Markdown: one table for each kind of work and number of connections."""
    parts: list[str] = []
    for (work, connections), results in _groups(document).items():
        unit = UNITS.get(work, "requests")
        parts.append(f"\n### {work}, {connections} connection{'s' if connections > 1 else ''}\n")
        parts.append(f"| | {unit}/s | p50 ms | p99 ms | p99.9 ms | gateway | service | NATS | total us | CPU | rps |")
        parts.append("|---|---|---|---|---|---|---|---|---|---|---|")
        for r in results:
            cpu = r["cpu_us"]
            cells = [f"{_of(role, cpu):.0f}" if role in cpu else "" for role in ROLES]
            ratios = f"{r['cpu_ratio']:.2f} | {r['rps_ratio']:.2f}" if "cpu_ratio" in r else " | "
            wrong = f" ({r['errors']} errors)" if r["errors"] else ""
            parts.append(
                f"| {r['contestant']}{wrong} | {r['rps']:,.0f} | {r['p50']:.2f} | {r['p99']:.2f} | {r['p999']:.2f} | "
                f"{' | '.join(cells)} | {r['cpu_total_us']:.0f} | {ratios} |"
            )
    if document.get("half_load"):
        parts.append("\n### get, 64 connections, at half of the peak above (open loop)\n")
        parts.append("| | requests/s | p50 ms | p99 ms | p99 / p50 |\n|---|---|---|---|---|")
        for r in document["half_load"]:
            cells = [f"{r['rps']:,.0f}", f"{r['p50']:.2f}", f"{r['p99']:.2f}", f"{r['p99_to_p50']:.1f}"]
            parts.append(f"| {r['contestant']} | {' | '.join(cells)} |")
    return "\n".join(parts)


def plot(document: dict[str, Any], work: str = "get", connections: int = 64) -> str:
    """SVG: CPU microseconds of every process for one request, by contestant."""
    results = _groups(document).get((work, connections), [])
    left, width, row = 240, 480, 34
    most = max((r["cpu_total_us"] for r in results), default=1.0)
    height = row * len(results) + 64
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 80}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="100%" height="100%" fill="white"/><text x="10" y="20" font-weight="bold">'
        f"CPU microseconds for each request: {work}, {connections} connections</text>",
    ]
    for place, result in enumerate(results):
        y, x = 36 + row * place, float(left)
        lines.append(f'<text x="{left - 8}" y="{y + 16}" text-anchor="end">{_escape(result["contestant"])}</text>')
        for role, colour in ROLES.items():
            size = _of(role, result["cpu_us"]) / most * width
            lines.append(f'<rect x="{x:.1f}" y="{y}" width="{size:.1f}" height="22" fill="{colour}"/>')
            x += size
        lines.append(f'<text x="{x + 6:.1f}" y="{y + 16}">{result["cpu_total_us"]:.0f}</text>')
    for place, (role, colour) in enumerate(ROLES.items()):
        x = left + 130 * place
        lines.append(f'<rect x="{x}" y="{height - 20}" width="12" height="12" fill="{colour}"/>')
        lines.append(f'<text x="{x + 18}" y="{height - 9}">{role}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _of(role: str, cpu: dict[str, float]) -> float:
    """All processes of one role: ``gateway`` and ``gateway 2``, say."""
    return sum(us for name, us in cpu.items() if name.split(" ")[0] == role)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
