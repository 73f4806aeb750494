"""Loads: each drives one subject for some seconds and returns the cost."""

import contextlib
import json
import re
import subprocess
import tempfile
import time

from processes import Process
from subjects import BIG, KEYS, ROOT, key

CONNECTIONS = 64
# A POST of 1 KiB.
POST = {"method": "POST", "path": "/v1/chat/post", "body": 'string.rep("x", 1024)'}
# A chat request of 1 KiB, whose answer reports its usage.
CHAT = {
    "method": "POST",
    "path": "/v1/chat/completions",
    "body": """'{"model":"tiny","max_tokens":16,"messages":[{"role":"user","content":"' .. string.rep("word ", 190) .. '"}]}'""",
}
UNITS = {"us": 1, "ms": 1e3, "s": 1e6, "m": 60e6}

# Requests are built once, so a thousand keys cost wrk no more than one.
WRK = """
local requests, count, number = {}, 0, 0
function init()
  for token in io.lines("%(tokens)s") do
    local headers = {["Authorization"] = "Bearer " .. token, ["Connection"] = %(connection)s,
                     ["User-Agent"] = "bench", ["Accept"] = "application/json", ["Content-Type"] = "application/json"}
    requests[count] = wrk.format("%(method)s", "%(path)s", headers, %(body)s)
    count = count + 1
    if count == %(keys)d then break end
  end
end
function request()
  number = (number + 7) %% count
  return requests[number]
end
"""


def micros(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * UNITS[unit]


def over_openssl(subject):
    """Environment of a load that offers one cipher suite."""
    return {"OPENSSL_CONF": str(subject.origin.openssl)}


class Wrk:
    """wrk for `seconds`: HTTP/1.1 at full speed."""

    def __init__(
        self,
        subject,
        cores,
        seconds,
        tls=False,
        method="GET",
        path="/v1/models",
        body="nil",
        connection="nil",
        connections=CONNECTIONS,
        keys=KEYS,
    ):
        self.script = tempfile.NamedTemporaryFile("w", suffix=".lua")
        asks = {"method": method, "path": path, "body": body, "connection": connection}
        self.script.write(WRK % (asks | {"tokens": subject.origin.tokens, "keys": keys}))
        self.script.flush()
        url = f"https://127.0.0.1:{subject.tls_port}" if tls else f"http://127.0.0.1:{subject.port}"
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "--latency"]
        command += ["-s", self.script.name, url]
        self.process = Process(command, cores, stdout=subprocess.PIPE, environment=over_openssl(subject))

    def outcome(self):
        text = self.process.child.communicate(timeout=300)[0].decode()
        self.script.close()
        wrong = re.search(r"(Non-2xx.*|Socket errors:.*)", text)
        latency = {percent: micros(value) for percent, value in re.findall(r"(\d+)%\s+([\d.]+\w+)", text)}
        size, unit = re.search(r"requests in [\d.]+\w+, ([\d.]+)(\w+) read", text).groups()
        scale = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
        return {
            "rate": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
            "bytes": float(size) * scale[unit],
            "p50": latency["50"],
            "p99": latency["99"],
            "wrong": wrong[1] if wrong else None,
        }


class H2load:
    """h2load for `seconds`: 64 requests in flight on 8 connections, over TLS."""

    def __init__(self, subject, cores, seconds):
        self.seconds = seconds
        command = ["h2load", "-t1", "-H", f"Authorization: Bearer {key(7)}", "-c8", "-m8", f"-D{seconds}"]
        command.append(f"https://127.0.0.1:{subject.tls_port}/v1/models")
        self.process = Process(command, cores, stdout=subprocess.PIPE, environment=over_openssl(subject))

    def outcome(self):
        text = self.process.child.communicate(timeout=300)[0].decode()
        failed = int(re.search(r"(\d+) failed", text)[1]) + int(re.search(r"([\d]+) errored", text)[1])
        answered = int(re.search(r"status codes: (\d+) 2xx", text)[1])
        wrong = f"{failed} failed, {answered} answered" if failed or not answered else None
        return {"rate": answered / self.seconds, "wrong": wrong}


class Pace:
    """`rate` requests a second in an open loop (bench/pace.rs), over 16 connections."""

    def __init__(self, url, tokens, cores, seconds, rate):
        self.expected = int(rate * seconds)
        command = [str(ROOT / "target/e2e/examples/pace"), f"{url}/v1/models", str(rate), str(seconds), "16", str(tokens)]
        self.process = Process(command, cores, stdout=subprocess.PIPE)

    def outcome(self):
        outcome = json.loads(self.process.child.communicate(timeout=300)[0])
        right = outcome["answers"] - outcome["wrong"]
        return outcome | {"wrong": None if right == self.expected else f"{right} of {self.expected} answered"}


def counted(subject, origin, load, seconds):
    """CPU per request in the middle of a load, without the start, when connections are opened."""
    time.sleep(0.25)
    cpu, before = subject.process.cpu_seconds(), origin.requests()
    time.sleep(seconds - 0.4)
    used, requests = subject.process.cpu_seconds() - cpu, origin.requests() - before - 1
    outcome = load.outcome()
    return outcome | {"cpu": used / requests * 1e6 if requests else None}


def get(subject, origin, cores, seconds, **options):
    return counted(subject, origin, Wrk(subject, cores, seconds, **options), seconds)


def http2(subject, origin, cores, seconds):
    return counted(subject, origin, H2load(subject, cores, seconds), seconds)


def big(subject, origin, cores, seconds):
    """CPU per MB (10^6 bytes) of a body."""
    cpu = subject.process.cpu_seconds()
    outcome = Wrk(subject, cores, seconds, path="/v1/models/big", connections=8).outcome()
    used = subject.process.cpu_seconds() - cpu
    assert outcome["bytes"] > BIG
    return outcome | {"cpu": used / (outcome["bytes"] / 1e6) * 1e6}


@contextlib.contextmanager
def event_reader(subject, cores, seconds, tls=False, streams=CONNECTIONS, command="read"):
    """Lines printed by a reader of event streams (bench/events.py); `command`: read or chat."""
    url = f"https://127.0.0.1:{subject.tls_port}" if tls else f"http://127.0.0.1:{subject.port}"
    program, url = str(ROOT / "bench/events.py"), f"{url}{subject.STREAM_PATH}"
    reader = ["python3", program, command, url, str(streams), str(seconds), key(7)]
    with Process(reader, cores, stdout=subprocess.PIPE, environment=over_openssl(subject)) as process:
        yield iter(process.child.stdout.readline, b"")


def events(subject, origin, cores, seconds, tls=False, streams=CONNECTIONS, command="read"):
    """CPU per event of `streams` with 100 events per second each."""
    with event_reader(subject, cores, seconds, tls, streams, command) as lines:
        assert next(lines) == b"begun\n" and next(lines) == b"window\n"
        cpu = subject.process.cpu_seconds()
        count, size = map(int, next(lines).split())
        used = subject.process.cpu_seconds() - cpu
    expected = streams * 100 * seconds
    wrong = None if 0.9 * expected < count < 1.1 * expected else f"{count} events, not {expected:.0f}"
    return {"cpu": used / max(1, count) * 1e6, "rate": count / seconds, "wrong": wrong}


def paced(subject, origin, cores, seconds, rate, tls=False):
    """CPU and added latency of a request at a steady rate, far from saturation."""
    direct = Pace(f"http://127.0.0.1:{origin.port}", origin.tokens, cores, seconds, rate).outcome()
    url = f"https://127.0.0.1:{subject.tls_port}" if tls else f"http://127.0.0.1:{subject.port}"
    cpu = subject.process.cpu_seconds()
    outcome = Pace(url, origin.tokens, cores, seconds, rate).outcome()
    used = subject.process.cpu_seconds() - cpu
    added = {f"added_{name}": outcome[name] - direct[name] for name in ("p50", "p99")}
    wrong = outcome["wrong"] or direct["wrong"]
    return added | {"rate": rate, "p99": outcome["p99"], "wrong": wrong, "cpu": used / (rate * seconds) * 1e6}


@contextlib.contextmanager
def idle_connections(subject, count, cores, tls=False):
    """`count` open connections that have had one answer each."""
    port = subject.tls_port if tls else subject.port
    holder = ["python3", str(ROOT / "bench/idle.py"), str(port), str(count), key(7), "tls" if tls else "plain"]
    with Process(holder, cores, stdout=subprocess.PIPE) as process:
        assert process.child.stdout.readline() == b"open\n", f"{count} connections to {subject.name} did not open"
        yield
