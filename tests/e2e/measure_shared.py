"""Long measurements of limits that replicas share on a Redis server, run by `make measure-shared`.

Measures how exactly several replicas grant one limit, the delay and the CPU that shared limits add to a
request, and the operations of Redis. Prints figures, and exits with 1 if one exceeds its promised bound.
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from fleet import excess, fleet
from gateway import free_port, wait_for
from redis_server import Redis

TICKS = os.sysconf("SC_CLK_TCK")
# What the way to the stub adds to the times of requests, in seconds: the log of nginx has milliseconds.
JITTER_SECONDS = 0.02
TOKENS = 20
USAGE = '{"usage":{"prompt_tokens":5,"completion_tokens":15,"total_tokens":20}}'
failed = []


def report(subject, figure, good):
    print(f"{'ok  ' if good else 'FAIL'} {subject}: {figure}", flush=True)
    if not good:
        failed.append(subject)


class Nginx:
    """nginx as a model server that answers at once, and logs the time of each request."""

    def __init__(self):
        self.directory, self.port = tempfile.TemporaryDirectory(prefix="bearward-nginx-"), free_port()
        path = pathlib.Path(self.directory.name)
        self.log = path / "access.log"
        (path / "nginx.conf").write_text(
            f"daemon off; worker_processes 1; pid {path}/pid; error_log {path}/error.log;\n"
            "events { worker_connections 4096; }\n"
            f"http {{ log_format times '$msec'; access_log {self.log} times; client_body_temp_path {path}; proxy_temp_path {path};\n"
            f" fastcgi_temp_path {path}; uwsgi_temp_path {path}; scgi_temp_path {path}; keepalive_requests 1000000000;\n"
            f" server {{ listen 127.0.0.1:{self.port} backlog=4096; default_type application/json;\n"
            f"  location / {{ return 200 '{USAGE}'; }} }} }}\n"
        )
        self.process = subprocess.Popen(["nginx", "-p", str(path), "-c", str(path / "nginx.conf")], stderr=subprocess.DEVNULL)
        wait_for("nginx listens", lambda: (path / "pid").exists())

    def times(self):
        """Times of all requests so far, in seconds."""
        return [float(line) for line in self.log.read_text().split()]

    def forget(self):
        os.truncate(self.log, 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.directory.cleanup()


@contextlib.contextmanager
def load(replicas, shares, rate, seconds, key, body=None, log=None):
    """Requests at `rate` a second over all replicas, by one h2load for each. Waits for their end."""
    running = []
    for number, (replica, share) in enumerate(zip(replicas, shares)):
        each = max(1, min(8, round(rate * share / 20)))
        command = ["h2load", "--h1", "-t1", f"-c{each}", f"--rps={max(rate * share / each, 0.1):.3f}", f"-D{seconds}", "-H", f"Authorization: Bearer {key}"]
        if body:
            command += ["-d", str(body), "-H", "Content-Type: application/json"]
        if log:
            command.append(f"--log-file={log}.{number}")
        command.append(f"http://127.0.0.1:{replica.port}/v1/chat/completions")
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    yield running
    for process in running:
        process.communicate()


def operations(redis):
    """Number of scripts that Redis has run."""
    lines = [line for line in redis.cli("INFO", "commandstats").splitlines() if line.startswith(("cmdstat_evalsha:", "cmdstat_eval:"))]
    return sum(int(line.split("calls=")[1].split(",")[0]) for line in lines)


def cpu(process):
    """CPU time of a process, in seconds."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def is_complete(replicas):
    """Whether each replica knows of all."""
    return all(len((replica.admin_status().get("shared") or {}).get("replicas", [])) == len(replicas) for replica in replicas)


def measure_bound(redis, nginx, count, amount, times, shares, seconds, unit):
    """One limit over `count` replicas, of which `times` as much is asked. Looks at all time spans."""
    burst = amount // 10 * (TOKENS if unit == "tokens" else 1)
    total = amount * (TOKENS if unit == "tokens" else 1)
    limits = f"rate_limits: [{{{unit}: {total}, per: 1m, burst: {burst}}}]"
    skew = [0.9] + [0.1 / (count - 1)] * (count - 1)
    rate = amount / 60 * times
    with tempfile.NamedTemporaryFile("w", suffix=".json") as body, fleet(count, nginx.port, redis.url, limits, routes="openai") as (replicas, key):
        body.write('{"model": "m", "max_tokens": 35, "messages": [{"role": "user", "content": "0123456789012345678901"}]}')
        body.flush()
        wait_for("all replicas know of all", lambda: is_complete(replicas))
        nginx.forget()
        before = operations(redis)
        begun = time.time()
        with load(replicas, shares and skew or [1 / count] * count, rate, seconds, key, body=body.name):
            pass
        spent, asked = operations(redis) - before, rate * seconds
        granted = [moment for moment in nginx.times() if moment < begun + seconds + 1]
    each = TOKENS if unit == "tokens" else 1
    per_second = total / 60 / each
    above = excess(granted, per_second, burst / each) - 1
    possible = min(asked, burst / each + per_second * (max(granted) - min(granted)))
    name = f"{count} replicas, {amount} {'calls of ' if unit == 'tokens' else ''}{unit} a minute x{times}, {'90/10' if shares else 'even'}"
    share = len(granted) / possible
    tolerated = max(1.0, per_second * JITTER_SECONDS)
    report(name, f"most over {above:.2f}, granted {share:.3f} of what is possible, operations {spent / asked:.3f} a request", above <= tolerated and (times < 1 or share >= 0.98))
    return spent / asked


def percentiles(log, count):
    """p50 and p99 of the delays in the logs of h2load, in milliseconds, and the number of requests."""
    delays = [int(line.split("\t")[2]) / 1000 for number in range(count) for line in open(f"{log}.{number}")]
    cuts = statistics.quantiles(delays, n=100)
    return cuts[49], cuts[98], len(delays)


def measure_cost(redis, nginx, seconds, rounds):
    """Delay and CPU of a request of a hot key, under a limit of twice the load, local and shared."""
    limits = "rate_limits: [{requests: 120000, per: 1m}]"
    figures = {}
    with contextlib.ExitStack() as stack:
        local, key = stack.enter_context(fleet(1, nginx.port, None, limits))
        shared, shared_key = stack.enter_context(fleet(1, nginx.port, redis.url, limits))
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for _ in range(rounds):
            for name, replicas, token in (("local", local, key), ("shared", shared, shared_key)):
                log = directory / name
                with load(replicas, [1], 1000, 1, token):
                    pass
                spent = cpu(replicas[0].process)
                for old in directory.glob(f"{name}.*"):
                    old.unlink()
                with load(replicas, [1], 1000, seconds, token, log=log):
                    pass
                p50, p99, count = percentiles(log, 1)
                figures.setdefault(name, []).append((p50, p99, (cpu(replicas[0].process) - spent) / count * 1e6))
    of = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in figures.items()}
    (p50, p99, micros), (shared_p50, shared_p99, shared_micros) = of["local"], of["shared"]
    report("p50 of a request", f"local {p50:.3f} ms, shared {shared_p50:.3f} ms", shared_p50 - p50 <= 0.02)
    report("p99 of a request", f"local {p99:.3f} ms, shared {shared_p99:.3f} ms", shared_p99 - p99 <= 2)
    report("CPU of a request", f"local {micros:.1f} us, shared {shared_micros:.1f} us, ratio {shared_micros / micros:.3f}", shared_micros / micros <= 1.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="bound,tokens,cost")
    only = parser.parse_args().only.split(",")
    arguments = parser.parse_args()
    assert shutil.which("h2load"), "install nghttp2-client"
    with Redis() as redis, Nginx() as nginx:
        if "cost" in only:
            measure_cost(redis, nginx, min(arguments.seconds, 10), arguments.rounds)
        for unit in ("requests", "tokens"):
            if {"requests": "bound", "tokens": "tokens"}[unit] not in only:
                continue
            for count in (3, 10):
                for amount in (600, 60_000):
                    for times in (0.5, 1, 10):
                        for shares in (False, True):
                            share = measure_bound(redis, nginx, count, amount, times, shares, arguments.seconds, unit)
                            if amount == 60_000 and unit == "requests":
                                report("  operations of Redis", f"{share:.3f} a request", share <= 0.10)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
