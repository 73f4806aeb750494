"""What it costs that a proxy asks bearward, run by `make measure-doors`.

For each proxy with its example: the p99 at a steady rate with the door and without it, in turn, and the CPU time of
bearward for a check beside that for a request that it forwards itself. Prints figures, and exits with 1 if one exceeds
its bound.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from gateway import ROOT, free_port, is_listening, wait_for
from proxies import DOORS, Doors, Proxy

RATE, CONNECTIONS, TICKS = 2000, 16, os.sysconf("SC_CLK_TCK")
CONFIG = "routes: openai\nlog: {access: false}\nworkers: 1\n"
failed = []


def report(subject, figure, good):
    print(f"{'ok  ' if good else 'FAIL'} {subject}: {figure}", flush=True)
    if not good:
        failed.append(subject)


class Model:
    """A model server that answers at once: nginx."""

    def __init__(self, directory):
        self.port = free_port()
        (directory / "model.conf").write_text(
            f"daemon off; worker_processes 1; pid {directory}/pid; error_log {directory}/error.log crit;\n"
            "events { worker_connections 1024; }\n"
            "http { access_log off; keepalive_requests 1000000000; default_type application/json;\n"
            f"server {{ listen 127.0.0.1:{self.port}; location / {{ return 200 '{{\"object\":\"list\",\"data\":[]}}'; }} }} }}\n"
        )
        self.process = subprocess.Popen(["nginx", "-p", directory, "-c", directory / "model.conf"], stderr=subprocess.DEVNULL)
        wait_for("the model listens", lambda: is_listening(self.port))


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def pace(port, tokens, seconds):
    """Percentiles of the latency at a steady rate, in microseconds."""
    url = f"http://127.0.0.1:{port}/v1/models"
    command = [ROOT / "target/e2e/examples/pace", url, str(RATE), str(seconds), str(CONNECTIONS), tokens]
    outcome = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=seconds + 60).stdout)
    assert outcome["wrong"] == 0 and outcome["answers"] == RATE * seconds, outcome
    return outcome


def measured(name, gateway, model, tokens, rounds, seconds):
    with Proxy(name, model, gateway.doors[name]) as asks, Proxy(name, model, gateway.doors[name], asks=False) as alone:
        added, median, checks = [], [], []
        for _ in range(rounds):
            without = pace(alone.port, tokens, seconds)
            before = cpu_seconds(gateway.process.pid)
            asked = pace(asks.port, tokens, seconds)
            checks.append((cpu_seconds(gateway.process.pid) - before) / (RATE * seconds) * 1e6)
            added.append((asked["p99"] - without["p99"]) / 1e3)
            median.append((asked["p50"] - without["p50"]) / 1e3)
        own = []
        for _ in range(rounds):
            before = cpu_seconds(gateway.process.pid)
            pace(gateway.port, tokens, seconds)
            own.append((cpu_seconds(gateway.process.pid) - before) / (RATE * seconds) * 1e6)
    p99, share = statistics.median(added), statistics.median(checks) / statistics.median(own)
    spread = f"{min(added):.2f} to {max(added):.2f}"
    text = f"{p99:.2f} ms ({spread} in {rounds} rounds), of the p50 {statistics.median(median):.2f} ms"
    report(f"added to the p99 by {name}'s door at {RATE}/s", text, p99 <= 1)
    figure = f"{share:.2f} ({statistics.median(checks):.0f} and {statistics.median(own):.0f} us)"
    report(f"CPU of a check by {name} to that of a forwarded request", figure, share <= 0.6)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(DOORS))
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bearward-doors-")))
        model = Model(directory)
        stack.callback(model.process.wait)
        stack.callback(model.process.terminate)
        keys = {"one": ["--permissions", "read", "--rate", "60000000/1m"]}
        gateway = stack.enter_context(Doors(model, keys, config=CONFIG))
        tokens = directory / "tokens"
        tokens.write_text(f"{gateway.tokens['one']}\n")
        for name in options.only.split(","):
            measured(name, gateway, model, tokens, options.rounds, options.seconds)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
