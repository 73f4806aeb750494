"""Long measurements of large key stores, run by `make measure-keys`.

Needs wrk and nginx (apt). Exits with 1 if a figure exceeds its promised bound. `MANY=100000` makes
the large store smaller.
"""

import hashlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from gateway import binary, free_port, wait_for

MANY = int(os.environ.get("MANY", 1_000_000))
missed = []

# Minimum work: parses each line, decodes its digest, and puts it into a map.
BASELINE = ["cargo", "bench", "--quiet", "--bench", "keys", "--", "parse"]

WRK = """
local keys = {}
local number = 0
local many = %d
local step = %d
request = function()
  number = (number + step) %% many
  wrk.headers["Authorization"] = string.format("Bearer sk-%%08d", number)
  return wrk.format("GET", "/v1/models")
end
"""


def report(subject, figure, good=True):
    print(f"{'ok  ' if good else 'FAIL'} {subject}: {figure}", flush=True)
    if not good:
        missed.append(subject)


def line(number, **more):
    digest = hashlib.sha256(b"sk-%08d" % number).hexdigest()
    fields = {"id": f"key_{number:010}", "name": f"tenant-{number}", "hash": f"sha256:{digest}", "permissions": ["read"]}
    fields |= {"environment": "production", "created_at": "2026-11-23T00:00:00Z", "expires_at": "2027-11-23T00:00:00Z"}
    return json.dumps(fields | {"rate_limits": [{"requests": 1_000_000_000, "per": "1m"}]} | more) + "\n"


def write_lines(path, count):
    with open(path, "w") as file:
        file.writelines(line(number) for number in range(count))


def write_yaml(path, count):
    with open(path, "w") as file:
        file.write("keys:\n")
        for number in range(count):
            digest = hashlib.sha256(b"sk-%08d" % number).hexdigest()
            file.write(f"  - id: key_{number:010}\n    name: tenant-{number}\n    hash: sha256:{digest}\n    permissions: [read]\n")


class Server:
    """bearward with one worker in front of nginx."""

    def __init__(self, keys, upstream):
        self.directory = tempfile.TemporaryDirectory(prefix="bearward-keys-")
        path = pathlib.Path(self.directory.name)
        self.port = free_port()
        (path / "bearward.yaml").write_text(
            f"listeners: [{{address: '127.0.0.1:{self.port}'}}]\nadmin: off\nworkers: 1\nlog: {{access: false}}\n"
            f"upstreams: [{{name: model, endpoints: ['http://127.0.0.1:{upstream}']}}]\nkeys: {{path: {keys}}}\n"
        )
        self.log = path / "log"
        started = time.monotonic()
        with open(self.log, "wb") as log:
            command = [binary(), "run", "--config", str(path / "bearward.yaml")]
            self.process = subprocess.Popen(command, stderr=log)
        wait_for("the gateway is ready", lambda: b'"ready"' in self.log.read_bytes(), 120)
        self.start = time.monotonic() - started

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.directory.cleanup()

    def rss_mib(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def status(self, number):
        headers = {"Authorization": f"Bearer sk-{number:08}"}
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/models", headers=headers)
        try:
            return urllib.request.urlopen(asked, timeout=30).status
        except urllib.error.HTTPError as error:
            return error.code

    def load(self, directory, many, seconds, connections=16):
        """wrk process that cycles through all keys in scattered order; see `outcome`."""
        script = directory / f"wrk-{many}.lua"
        # A step that is coprime to the number of keys visits all of them.
        script.write_text(WRK % (many, 7_919_777 if many > 10 else 7))
        url = f"http://127.0.0.1:{self.port}"
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "-s", str(script), url]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def outcome(wrk):
    """Number of requests, p99 in ms, and number of errors."""
    text = wrk.communicate(timeout=120)[0]
    p99, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", text).groups()
    scale = {"us": 0.001, "ms": 1, "s": 1000}[unit]
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return int(re.search(r"(\d+) requests in", text)[1]), float(p99) * scale, int(errors[1]) if errors else 0


def copy_with(path, new, number, text):
    """Copy of a file with one line replaced."""
    with open(path) as old, open(new, "w") as file:
        for index, kept in enumerate(old):
            file.write(text if index == number else kept)
    os.sync()


def start_and_memory(keys, upstream):
    baseline = json.loads(subprocess.run([*BASELINE, str(keys)], check=True, capture_output=True, text=True).stdout)
    with Server(keys, upstream) as server:
        time.sleep(1)
        rss = server.rss_mib()
        ratio = server.start / baseline["seconds"]
        figure = f"{server.start:.2f} s, {ratio:.2f} × the {baseline['seconds']:.2f} s of parsing and hashing alone"
        report(f"start to ready with {MANY:,} keys", figure, ratio <= 1.5)
        report("  RSS, idle", f"{rss:.0f} MiB", rss <= 250)


def revocation_under_load(keys, directory, upstream):
    victim = MANY // 2
    with Server(keys, upstream) as server:
        outcome(server.load(directory, MANY, 5))
        assert server.status(victim) == 200
        slowest, ratios = 0, []
        for round_ in range(9):
            revoked = round_ % 2 == 0
            # Written before the load, because writing it would compete with the load.
            new = directory / "keys.new"
            copy_with(keys, new, victim, line(victim, disabled=True) if revoked else line(victim))
            loading = server.load(directory, MANY, 4)
            time.sleep(0.5)
            # Control: the same load and the same polling, without a change.
            for _ in range(8):
                server.status(victim)
                time.sleep(0.05)
            _, quiet, errors = outcome(loading)
            assert not errors or round_, errors
            loading = server.load(directory, MANY, 4)
            time.sleep(0.5)
            new.rename(keys)
            changed = time.monotonic()
            expected = 401 if revoked else 200
            while server.status(victim) != expected:
                assert time.monotonic() < changed + 30, "the change is not live"
                time.sleep(0.05)
            slowest = max(slowest, time.monotonic() - changed)
            ratios.append(outcome(loading)[1] / quiet)
        report("one key revoked, or let in again, of these, under load", f"live after {slowest:.2f} s at the slowest of 9", slowest <= 2)
        ratios.sort()
        median = statistics.median(ratios)
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        report("  p99 with the change, of that without one", f"{median:.2f} × (median of {shown})", median <= 2)
        report("  RSS behind 9 reloads", f"{server.rss_mib():.0f} MiB")


def cpu_per_request(keys, few, directory, upstream):
    costs = {}
    with Server(keys, upstream) as many, Server(few, upstream) as ten:
        servers = {"many": (many, MANY), "few": (ten, 10)}
        for server, count in servers.values():
            outcome(server.load(directory, count, 15 if count > 10 else 3))
        for round_ in range(12):
            for name in ("many", "few") if round_ % 2 else ("few", "many"):
                server, count = servers[name]
                before = server.cpu_seconds()
                requests, _, errors = outcome(server.load(directory, count, 4))
                assert errors == 0, errors
                costs.setdefault(name, []).append((server.cpu_seconds() - before) / requests * 1e6)
    ratios = sorted(many / few for many, few in zip(costs["many"], costs["few"]))
    median = statistics.median(ratios)
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    figure = f"{median:.2f} × (median of {shown}); {min(costs['many']):.1f} and {min(costs['few']):.1f} µs"
    report(f"CPU a request, {MANY:,} keys in turn, against 10", figure, median <= 1.10)


def main():
    with tempfile.TemporaryDirectory(prefix="bearward-keys-") as name:
        directory = pathlib.Path(name)
        upstream = free_port()
        (directory / "nginx.conf").write_text(
            f"daemon off; pid {name}/nginx.pid; error_log stderr crit; worker_processes 1;\n"
            "events { worker_connections 1024; }\n"
            f"http {{ access_log off; server {{ listen 127.0.0.1:{upstream}; keepalive_requests 1000000000;\n"
            "  location / { return 200 hi; } } }\n"
        )
        nginx = subprocess.Popen(["nginx", "-c", str(directory / "nginx.conf")])
        try:
            keys, few, yaml = directory / "keys.jsonl", directory / "few.jsonl", directory / "keys.yaml"
            write_lines(keys, MANY)
            write_lines(few, 10)
            write_yaml(yaml, 100_000)
            start_and_memory(keys, upstream)
            with Server(yaml, upstream) as server:
                report("start to ready with 100,000 keys in YAML", f"{server.start:.2f} s, {server.rss_mib():.0f} MiB")
                assert server.status(99_999) == 200
            revocation_under_load(keys, directory, upstream)
            cpu_per_request(keys, few, directory, upstream)
        finally:
            nginx.terminate()
            nginx.wait()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
