"""Cost of logs and metrics.

Measures CPU per request with and without logs, a scrape with ten thousand keys in use, and a log
whose destination cannot be written. `BEARWARD_BEFORE` names a second binary to compare with, which
runs without logs: for example one without metrics.
"""

import argparse
import http.client
import os
import pathlib
import random
import re
import statistics
import tempfile
import time
import urllib.request

import loads
from curves import compared, report
from ratios import ratio
from subjects import Bearward, Origin, key

MANY = 10_000


def logs_to(path):
    return f"format: json, access_to: '{path}', audit_to: '{path}'"


def metrics_of(subject):
    asked = urllib.request.Request(f"http://127.0.0.1:{subject.admin_port}/metrics")
    began = time.perf_counter()
    text = urllib.request.urlopen(asked, timeout=30).read().decode()
    return time.perf_counter() - began, text


def cost_of_logs(directory, origin, rounds):
    off = "format: json, access: false, audit: false"
    kinds = {"all off": {"logs": off}, "all on": {"logs": logs_to(directory / "access.log")}}
    if os.environ.get("BEARWARD_BEFORE"):
        kinds = {"before, all off": {"logs": off, "binary": os.environ["BEARWARD_BEFORE"]}} | kinds
    subjects = {
        name: Bearward(name.replace(" ", "-").replace(",", ""), directory, origin, 1, [1], **options)
        for name, options in kinds.items()
    }
    try:
        report("being observed", compared(subjects, origin, rounds))
    finally:
        for subject in subjects.values():
            subject.end()


def scrape_of_many(directory, origin):
    """Ten scrapes in sequence, after every key was used on one route."""
    for key_ids in (1000, MANY):
        subject = Bearward(f"many-{key_ids}", directory, origin, 1, [1], keys=MANY, key_ids=key_ids)
        try:
            use_all(subject, origin)
            took, text = zip(*(metrics_of(subject) for _ in range(10)), strict=True)
            series = len(re.findall(r'^bearward_requests_total\{key_id="key_', text[0], re.MULTILINE))
            print(
                f"/metrics, {MANY} keys in use, {series} with own series: median {statistics.median(took) * 1e3:.1f} ms, "
                f"worst {max(took) * 1e3:.1f} ms, {len(text[0]) / 2**20:.2f} MiB",
                flush=True,
            )
        finally:
            subject.end()


def use_all(subject, origin):
    """Sends one request with each key of the store."""
    connection = http.client.HTTPConnection("127.0.0.1", subject.port, timeout=30)
    for number in range(MANY):
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key(number)}"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status


def broken_logs(directory, origin, rounds):
    """p99 of a saturating load, and lost lines, while the log cannot be written."""
    fifo = directory / "fifo"
    os.mkfifo(fifo)
    kinds = {"a file": directory / "plain.log", "/dev/full": "/dev/full", "a FIFO that nobody reads": fifo}
    subjects = {
        name: Bearward(f"log-{number}", directory, origin, 1, [1], logs=logs_to(path))
        for number, (name, path) in enumerate(kinds.items())
    }
    values = {name: [] for name in subjects}
    try:
        for _ in range(rounds):
            for name in random.sample(list(subjects), len(subjects)):
                outcome = loads.get(subjects[name], origin, [0], 3)
                if outcome["wrong"]:
                    raise SystemExit(f"{name}: {outcome['wrong']}")
                values[name].append(outcome["p99"])
        for name, subject in subjects.items():
            lost = re.search(rf'log_lines_dropped_total\{{log="{kinds[name]}"\}} (\d+)', metrics_of(subject)[1])[1]
            one = ratio(values[name], values["a file"])
            print(
                f"p99 with the log to {name:24} {statistics.median(values[name]) / 1e3:6.2f} ms  "
                f"{one.median:.2f} of a file ±{one.spread:.0%}  no request lost, {lost} lines lost",
                flush=True,
            )
    finally:
        for subject in subjects.values():
            subject.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="cost,scrape,broken")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bearward-observe-") as name:
        directory = pathlib.Path(name)
        origin = Origin(directory, [0])
        parts = {
            "cost": lambda: cost_of_logs(directory, origin, arguments.rounds),
            "scrape": lambda: scrape_of_many(directory, origin),
            "broken": lambda: broken_logs(directory, origin, arguments.rounds),
        }
        try:
            for part in arguments.only.split(","):
                parts[part]()
        finally:
            origin.end()


if __name__ == "__main__":
    main()
