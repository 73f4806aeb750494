"""Records `bearward demo` for README: docs/demo.cast (asciinema, version 2) and docs/demo.svg, which is made of it.

`make recording` runs it. Every command and every answer is from a real run; only the time at which a line appears
is chosen, so that people can read along.
"""

import html
import json
import os
import re
import subprocess
import textwrap

from gateway import ROOT, binary

CAST, SVG = ROOT / "docs/demo.cast", ROOT / "docs/demo.svg"
COLUMNS, ROWS = 110, 30
# Beginnings of the comments of the demo's commands that are shown.
SHOWN = (
    "# no key", "# a key with `read`", "# and streams", "# it may not create", "# the answer to the fourth", "# 60 tokens", "# a key for other models",
)  # fmt: skip
# Seconds: after a command, after a line of an answer, after an answer.
AFTER_COMMAND, AFTER_LINE, AFTER_ANSWER = 0.8, 0.06, 2.5
# What differs from run to run, and what stands in its place when two recordings are compared.
VARIES = (
    (r"bwk_\w+", "bwk_…"),
    (r"key_\w+", "key_…"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:…"),
    (r"/\S*bearward-demo-\w+", "/…"),
    (r"[0-9a-f]{8}-[0-9a-f-]{27}", "…"),
    (r"(?i)^date: .*$", "date: …"),
    (r"(?i)^(retry-after|content-length|x-request-id|ratelimit|x-ratelimit-\S+): .*$", r"\1: …"),
    (r'"(retry_after|retry_after_seconds|reset|remaining)":[\d.]+', r'"\1":…'),
)


def steps(demo):
    """The first line that the demo prints, and its pairs of a comment and a command."""
    # It says this when it has printed all.
    assert any("until Ctrl-C" in line for line in iter(demo.stderr.readline, ""))
    first, *lines = [line for line in os.read(demo.stdout.fileno(), 1 << 16).decode().splitlines() if line]
    return first, list(zip(lines[::2], lines[1::2], strict=True))


def run():
    """The recording: pairs of a time in seconds and a line. Lines of the demo come first."""
    demo = subprocess.Popen([binary(), "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        first, all_steps = steps(demo)
        now, events = 0.5, [(0.0, "$ bearward demo &"), (0.5, first)]
        for comment, command in all_steps:
            answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30).stdout
            if not comment.startswith(SHOWN):
                continue
            now += AFTER_ANSWER
            events += [(now, ""), (now, comment), (now, f"$ {command}")]
            now += AFTER_COMMAND
            for line in answer.replace("\r", "").splitlines():
                events.append((now, line))
                now += AFTER_LINE
        return events
    finally:
        demo.terminate()
        demo.wait()


def compared(events):
    """The lines of a recording without what varies from run to run."""
    lines = [line for _, line in events]
    for pattern, text in VARIES:
        lines = [re.sub(pattern, text, line) for line in lines]
    return lines


def cast(events):
    """A recording as asciinema's format, version 2."""
    header = {"version": 2, "width": COLUMNS, "height": ROWS, "title": "bearward demo"}
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [header, *([time, "o", f"{text}\r\n"] for time, text in events)])


def events_of(text):
    """The lines of a recording in asciinema's format, with their times."""
    header, *lines = map(json.loads, text.splitlines())
    assert header["version"] == 2
    return [(time, data.removesuffix("\r\n")) for time, _, data in lines]


def rows(events):
    """The rows of a terminal of COLUMNS: a long line is several rows. Each with its time and its kind."""
    for time, line in events:
        kind = "command" if line.startswith("$ ") else "comment" if line.startswith("# ") else "answer"
        for row in textwrap.wrap(line, COLUMNS, break_on_hyphens=False, drop_whitespace=False) or [""]:
            yield time, kind, row


def svg(events):
    """A picture that shows the recording again and again: what is said so far is uncovered, and moves up."""
    step, width = 17, COLUMNS * 8.43 + 24
    shown = list(rows(events))
    total = shown[-1][0] + 4
    times = sorted({time for time, _, _ in shown})
    counts = [sum(time <= now for time, _, _ in shown) for now in times]
    keys = ";".join(f"{time / total:.4f}" for time in times)
    moves = ";".join(f"0 {-step * max(0, count - ROWS)}" for count in counts)
    heights = ";".join(str(step * count + 4) for count in counts)
    text = "".join(
        f'<text class="{kind}" x="12" y="{step * (number + 1)}" xml:space="preserve">{html.escape(row)}</text>\n'
        for number, (_, kind, row) in enumerate(shown)
        if row
    )
    again = f'keyTimes="{keys}" calcMode="discrete" dur="{total:.1f}s" repeatCount="indefinite"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {step * ROWS + 24}" role="img" aria-label="A recording of bearward demo">
<style>
text {{ font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #d6deeb; }}
.command {{ fill: #ffffff; font-weight: 600; }}
.comment {{ fill: #7fdbca; }}
</style>
<rect width="100%" height="100%" rx="8" fill="#0b1722"/>
<clipPath id="window"><rect x="0" y="10" width="{width:.0f}" height="{step * ROWS + 4}"/></clipPath>
<clipPath id="said"><rect x="0" y="0" width="{width:.0f}" height="{step * len(shown)}"><animate attributeName="height" values="{heights}" {again}/></rect></clipPath>
<g clip-path="url(#window)"><g transform="translate(0 8)"><g clip-path="url(#said)">
<animateTransform attributeName="transform" type="translate" values="{moves}" {again}/>
{text}</g></g></g>
</svg>
"""


def main():
    recorded = cast(run())
    CAST.write_text(recorded)
    SVG.write_text(svg(events_of(recorded)))
    print(f"{CAST.relative_to(ROOT)} and {SVG.relative_to(ROOT)}: {len(recorded)} and {SVG.stat().st_size} bytes")


if __name__ == "__main__":
    main()
