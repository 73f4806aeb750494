"""Table and picture of the bench."""

import statistics


UNITS = {"cpu": "µs CPU", "p99": "µs p99", "added_p50": "µs added", "added_p99": "µs added"}
BATCHING = "haproxy-batching"
PEERS = {
    "nginx": "nginx",
    "haproxy": "HAProxy",
    BATCHING: "HAProxy that batches",
    "envoy": "Envoy",
    "caddy": "Caddy",
    "litellm": "LiteLLM",
}
CONTROL = ("nginx-copy", "nginx")


def rows(scenarios):
    """Measured scenarios: scenario, figure, and the figure's ratios by pair."""
    for scenario in scenarios:
        for figure in scenario.figures if scenario.rounds else ():
            yield scenario, figure, scenario.ratios(figure)


def measured(scenarios):
    """The peers for which a scenario has figures."""
    found = set().union(*(outcomes for scenario in scenarios for outcomes in scenario.rounds))
    return [peer for peer in PEERS if peer in found]


def number(value):
    """With two digits at least: the ratio to a peer can be far below 0.01."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def cell(ratio, with_quartiles=False):
    if ratio is None:
        return ""
    quartiles = f" ({number(ratio.lower_quartile)}–{number(ratio.upper_quartile)})" if with_quartiles else ""
    return f"{number(ratio.median)}{quartiles} ±{ratio.spread:.0%}"


def table(scenarios, memory, about, lacks):
    """Table of ratios (smaller is better): median ± half the 95% interval, for nginx with its quartiles."""
    peers = measured(scenarios)
    columns = [f"/ {PEERS[peer]}" for peer in peers]
    head = ["work", "figure", "bearward", *columns, "control: nginx / its copy", "rounds", "aim: / nginx, / HAProxy"]
    lines = [head]
    for scenario, figure, ratios in rows(scenarios):
        own = [value for value in scenario.values("bearward", figure) if value is not None]
        aims = [f"{aim:.2f}" if aim else "-" for aim in scenario.aims.get(figure, ())]
        cells = [cell(ratios["bearward", peer], peer == "nginx") for peer in peers]
        cells.append(cell(ratios[CONTROL]))
        title = f"{statistics.median(own):.1f} {UNITS[figure]}"
        lines.append([scenario.title, figure, title, *cells, str(len(scenario.rounds)), ", ".join(aims)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    text = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
    notes = [f"{PEERS[name]} does not do all of the work: {what}." for name, what in lacks.items()]
    started = ", ".join(f"{name} {kib / 1000:.1f} MB" for name, kib in memory.items())
    facts = ", ".join(f"{name}: {value}" for name, value in about.items())
    return "\n".join([*text, "", *notes, f"PSS at start: {started}", facts])


# Left: titles. Middle: ratios with their intervals. Right: a column of numbers for each peer.
LEFT, MIDDLE, COLUMN, LANE, GAP, TOP = 300, 360, 62, 6, 12, 74
# A ratio beyond it is cut off: the rest of the picture stays readable, and the number tells.
LARGEST = 1.6
DRAWN = [peer for peer in PEERS if peer != BATCHING]
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f } .small { font-size: 11px; fill: #57606a } .end { text-anchor: end }
.nginx { fill: #1f6feb; stroke: #1f6feb } .haproxy { fill: #8250df; stroke: #8250df } .envoy { fill: #bf3989; stroke: #bf3989 }
.caddy { fill: #1a7f37; stroke: #1a7f37 } .litellm { fill: #bc4c00; stroke: #bc4c00 } text[class] { stroke: none }
.one { stroke: #57606a; stroke-dasharray: 3 3 } .grid { stroke: #d0d7de } .band { fill: #8b949e; fill-opacity: 0.1 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #8b949e } .one { stroke: #8b949e } .grid { stroke: #30363d }
  .nginx { fill: #58a6ff; stroke: #58a6ff } .haproxy { fill: #bc8cff; stroke: #bc8cff } .envoy { fill: #ff7bc0; stroke: #ff7bc0 }
  .caddy { fill: #56d364; stroke: #56d364 } .litellm { fill: #f0883e; stroke: #f0883e } }
"""


def picture(scenarios, about):
    """SVG of ratios as dots with their intervals: left of the line at 1, bearward costs less than the peer."""
    peers = [peer for peer in measured(scenarios) if peer in DRAWN]
    found = list(rows(scenarios))
    at = lambda value: LEFT + MIDDLE * min(value, LARGEST) / LARGEST
    column = lambda index: LEFT + MIDDLE + 24 + COLUMN * (index + 0.6)
    height = LANE * len(peers) + GAP
    width, bottom = column(len(peers)), TOP + height * len(found)
    parts = []
    for row, (scenario, figure, ratios) in enumerate(found):
        y = TOP + height * row
        if row % 2:
            parts.append(f'<rect class="band" x="0" y="{y}" width="{width:.0f}" height="{height}"/>')
        label = scenario.title if figure == "cpu" else f"{scenario.title}: {figure.replace('_', ' ')}"
        parts.append(f'<text class="end" x="{LEFT - 12}" y="{y + height / 2 + 4}">{label}</text>')
        for index, peer in enumerate(peers):
            one = ratios["bearward", peer]
            if one is None:
                continue
            lane = y + GAP / 2 + LANE * (index + 0.5)
            parts.append(f'<line class="{peer}" x1="{at(one.low):.1f}" x2="{at(one.high):.1f}" y1="{lane}" y2="{lane}"/>')
            if one.median <= LARGEST:
                parts.append(f'<circle class="{peer}" cx="{at(one.median):.1f}" cy="{lane}" r="2.6"/>')
            text = f'<text class="{peer} end" x="{column(index):.0f}" y="{y + height / 2 + 4}">{number(one.median)}</text>'
            parts.append(text)
    ticks = []
    for value in (0, 0.5, 1, 1.5):
        style = "one" if value == 1 else "grid"
        ticks.append(f'<line class="{style}" x1="{at(value):.1f}" x2="{at(value):.1f}" y1="{TOP}" y2="{bottom}"/>')
        ticks.append(f'<text class="small" x="{at(value):.1f}" y="{TOP - 6}" text-anchor="middle">{value:g}</text>')
    title = (
        '<text x="12" y="20" font-weight="600">Cost of bearward relative to each peer (CPU unless a row says otherwise)</text>'
        '<text class="small" x="12" y="38">Dot: median ratio; line: its 95% interval. Left of 1, bearward costs less.</text>'
    )
    heads = (
        f'<text class="{peer} end" font-weight="600" x="{column(index):.0f}" y="{TOP - 6}">{PEERS[peer]}</text>'
        for index, peer in enumerate(peers)
    )
    versions = " · ".join(release(peer, about[peer]) for peer in peers if peer in about)
    foot = f'<text class="small" x="12" y="{bottom + 20}">{about["date"]} · {versions}</text>'
    names = ", ".join(PEERS[peer] for peer in peers)
    start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {bottom + 32:.0f}" role="img"'
    body = "".join([title, *heads, *ticks, *parts, foot])
    return f'{start} aria-label="Ratios of bearward to {names}"><style>{STYLE}</style>{body}</svg>\n'


def release(peer, version):
    """Name and number, from what the program says of itself."""
    numbers = (part.strip("v") for part in version.replace("/", " ").replace("-", " ").split())
    return f"{PEERS[peer]} {next((part for part in numbers if part[:1].isdigit() and '.' in part), version)}"
