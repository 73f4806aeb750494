"""Table and picture of the bench."""

import statistics


UNITS = {"cpu": "µs CPU", "p99": "µs p99", "added_p50": "µs added", "added_p99": "µs added"}
BATCHING = "haproxy-batching"
PEERS = ["nginx", "haproxy", BATCHING, "envoy"]


def rows(scenarios):
    """Measured scenarios: scenario, figure, and the figure's ratios by pair."""
    for scenario in scenarios:
        for figure in scenario.figures if scenario.rounds else ():
            yield scenario, figure, scenario.ratios(figure)


def cell(ratio):
    if ratio is None:
        return "-"
    return f"{ratio.median:.2f} ({ratio.lower_quartile:.2f}-{ratio.upper_quartile:.2f}) ±{ratio.spread:.0%}"


def table(scenarios, memory, about):
    """Table of ratios (smaller is better): median (quartiles) ± half the 95% interval."""
    head = ["scenario", "figure", "bearward", "/ nginx", "/ HAProxy", "/ HAProxy batching", "/ Envoy", "nginx / its copy", "rounds", "aim"]
    lines = [head]
    for scenario, figure, ratios in rows(scenarios):
        own = [value for value in scenario.values("bearward", figure) if value is not None]
        aims = [f"{aim:.2f}" if aim else "-" for aim in scenario.aims.get(figure, (None, None))]
        cells = [
            cell(ratios[pair])
            for pair in [*(("bearward", peer) for peer in PEERS), ("nginx-copy", "nginx")]
        ]
        title = f"{statistics.median(own):.1f} {UNITS[figure]}"
        lines.append([scenario.title, figure, title, *cells, str(len(scenario.rounds)), " / ".join(aims)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    text = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
    started = ", ".join(f"{name} {kib / 1000:.1f} MB" for name, kib in memory.items())
    facts = ", ".join(f"{name}: {value}" for name, value in about.items())
    return "\n".join([*text, "", f"PSS at start: {started}", facts])


BAR, GAP, LEFT, WIDTH = 14, 22, 250, 760
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f } .small { font-size: 11px; fill: #57606a }
.nginx { fill: #2f81f7 } .haproxy { fill: #8957e5 } .one { stroke: #57606a; stroke-dasharray: 3 3 } .range { stroke: #24292f }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #8b949e } .one { stroke: #8b949e } .range { stroke: #e6edf3 } }
"""


def picture(scenarios, about):
    """SVG of ratios as bars: below the line at 1, bearward costs less than the peer."""
    found = list(rows(scenarios))
    largest = max([1.2] + [r.high for _, _, ratios in found for r in list(ratios.values())[:2] if r])
    at = lambda value: LEFT + (WIDTH - LEFT - 60) * value / largest
    parts, y = [], 58
    for scenario, figure, ratios in found:
        label = scenario.title if figure == "cpu" else f"{scenario.title}: {figure}"
        parts.append(f'<text x="{LEFT - 10}" y="{y + BAR}" text-anchor="end">{label}</text>')
        for peer in ("nginx", "haproxy"):
            one = ratios["bearward", peer]
            if one is None:
                continue
            middle = y + BAR / 2
            parts.append(
                f'<rect class="{peer}" x="{LEFT}" y="{y}" width="{at(one.median) - LEFT:.1f}" height="{BAR - 2}"/>'
                f'<line class="range" x1="{at(one.low):.1f}" x2="{at(one.high):.1f}" y1="{middle}" y2="{middle}"/>'
                f'<text class="small" x="{at(one.high) + 5:.1f}" y="{middle + 4}">{one.median:.2f}</text>'
            )
            y += BAR
        y += GAP - BAR / 2
    line = f'<line class="one" x1="{at(1):.1f}" x2="{at(1):.1f}" y1="50" y2="{y}"/>'
    title = (
        '<text x="12" y="20" font-weight="600">Cost of bearward relative to each peer (CPU unless a row says otherwise)</text>'
        '<rect class="nginx" x="12" y="30" width="10" height="10"/><text x="28" y="40">to nginx</text>'
        '<rect class="haproxy" x="110" y="30" width="10" height="10"/><text x="126" y="40">to HAProxy</text>'
    )
    facts = f"{about['date']} · {about['nginx']} · {about['haproxy'].split(' - ')[0]} · line: the 95% interval"
    foot = f'<text class="small" x="12" y="{y + 18}">{facts}</text>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 30:.0f}" role="img"'
    return f'{head} aria-label="Ratios of bearward to nginx and HAProxy"><style>{STYLE}</style>{title}{line}{"".join(parts)}{foot}</svg>\n'
