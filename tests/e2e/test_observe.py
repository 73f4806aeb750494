"""Observability of the real binary: Prometheus, schemathesis, agreement of counts, logs, traces."""

import base64
import collections
import json
import os
import random
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

import jsonschema
import pytest
import yaml
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway import ROOT, Gateway, free_port, is_listening, wait_for

KEYS = {
    "reader": ["--permissions", "read"],
    "writer": ["--permissions", "read,write"],
    "limited": ["--permissions", "read", "--rate", "50/1h/50"],
    "expired": ["--permissions", "read", "--expires-in", "1ms"],
    "ending": ["--permissions", "read", "--expires-in", "30d"],
}
ADMIN = {"Authorization": "Bearer the-admin-token"}


def asked(gateway, path, headers=None, method="GET"):
    request = urllib.request.Request(f"http://127.0.0.1:{gateway.admin_port}{path}", headers=headers or {}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


def stopped(gateway):
    """Stops the process with SIGTERM; returns its exit code."""
    gateway.process.send_signal(signal.SIGTERM)
    return gateway.process.wait(timeout=20)


def data(gateway, path):
    return json.loads(asked(gateway, path))["data"]


def samples(text, name):
    found = {}
    for line in text.splitlines():
        if line.startswith(name + "{") or line.startswith(name + " "):
            labels, value = line[len(name):].rsplit(" ", 1)
            found[labels.strip()] = float(value)
    return found


class Answering(socketserver.StreamRequestHandler):
    """Handler that reads requests without chunked bodies and answers `ok`."""

    def handle(self):
        while self.rfile.readline():
            length = 0
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            self.rfile.read(length)
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


class Upstream(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    @property
    def port(self):
        return self.server_address[1]


@pytest.fixture
def upstream():
    with Upstream(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class Wire:
    """Keep-alive connection for sequential requests that returns only their statuses."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def status(self, path, token=None, body=None):
        bearer = f"Authorization: Bearer {token}\r\n" if token else ""
        method = "GET" if body is None else "POST"
        length = f"Content-Length: {len(body)}\r\n" if body is not None else ""
        self.socket.sendall(f"{method} {path} HTTP/1.1\r\nHost: a\r\n{bearer}{length}\r\n{body or ''}".encode())
        status = int(self.file.readline().split()[1])
        remaining = 0
        while (line := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            if name.lower() == "content-length":
                remaining = int(value)
        self.file.read(remaining)
        return status


def mixed(gateway, requests, tally, lock):
    """Sends random requests on one connection; adds key and status of each to `tally`."""
    own = collections.Counter()
    wire = Wire(gateway.port)
    kinds = [
        ("reader", "/v1/models", None), ("writer", "/v1/models", None), ("reader", "/v1/files", "{}"),
        ("writer", "/v1/chat/completions", "{}"), ("limited", "/v1/models", None), ("expired", "/v1/models", None),
        (None, "/v1/models", None), ("writer", "/nowhere", None), ("unknown", "/v1/models", None),
    ]  # fmt: skip
    for _ in range(requests):
        name, path, body = random.choice(kinds)
        token = "sk-nobody-knows-this-one" if name == "unknown" else gateway.tokens.get(name)
        own[name, wire.status(path, token, body)] += 1
    with lock:
        tally.update(own)


def test_all_counts_agree_after_many_mixed_requests_and_reloads(upstream, tmp_path):
    """Compares audit log, access log, metrics, usage and the clients' own tally."""
    total = int(os.environ.get("REQUESTS", "20000"))
    audit, access = tmp_path / "audit.log", tmp_path / "access.log"
    logs = f"log: {{format: json, access_to: {access}, audit_to: {audit}}}\n"
    with Gateway(upstream.port, KEYS, admin=True, config=logs) as gateway:
        tally, lock = collections.Counter(), threading.Lock()
        threads = [threading.Thread(target=mixed, args=(gateway, total // 8, tally, lock)) for _ in range(8)]
        for thread in threads:
            thread.start()
        reloads = 0
        while any(thread.is_alive() for thread in threads):
            if reloads % 3 == 0:
                keys = gateway.path / "keys.yaml"
                keys.write_text(keys.read_text() + f"# {reloads}\n")
            asked(gateway, "/api/v1/reload", ADMIN, "POST")
            reloads += 1
            time.sleep(0.05)
        for thread in threads:
            thread.join()
        total = sum(tally.values())
        wait_for("all requests are counted", lambda: data(gateway, "/api/v1/status")["requests"] == total)
        text = asked(gateway, "/metrics")
        shown = {key["name"]: key for page in [data(gateway, "/api/v1/keys")] for key in page["keys"]}
        # The process writes all remaining lines before it ends.
        assert stopped(gateway) == 0
        assert reloads >= 3 and sum(samples(text, "bearward_log_lines_dropped_total").values()) == 0
    by_status, refused = collections.Counter(), collections.Counter()
    for (_, status), count in tally.items():
        by_status[status] += count
    metrics = collections.Counter()
    for labels, count in samples(text, "bearward_requests_total").items():
        metrics[labels.split('status="')[1][0]] += int(count)
    assert metrics["2"] == by_status[200] and metrics["4"] == total - by_status[200], (metrics, by_status)
    lines = [json.loads(line) for line in access.read_text().splitlines()]
    left_out = sum(line["lines"] for line in lines if line["message"] == "left_out")
    # Some lines of unauthenticated clients are left out and counted, but none of key holders.
    by_line = collections.Counter(line["status"] for line in lines if line["message"] == "request")
    by_line[401] += left_out
    assert by_line == by_status and left_out > 0
    events = [json.loads(line) for line in audit.read_text().splitlines()]
    audited = collections.Counter(line["code"] for line in events if line["event"] == "refused")
    audit_left_out = sum(line["lines"] for line in events if line["event"] == "left_out")
    for labels, count in samples(text, "bearward_refusals_total").items():
        refused[labels.split('"')[1]] = int(count)
    unauthenticated = {"EXPIRED_API_KEY", "MISSING_API_KEY", "INVALID_API_KEY"}
    assert all(audited[code] == refused[code] for code in refused if code not in unauthenticated), (audited, refused)
    assert sum(audited.values()) + audit_left_out == sum(refused.values()) == total - by_status[200]
    expected = {
        "EXPIRED_API_KEY": tally["expired", 401], "MISSING_API_KEY": tally[None, 401],
        "INVALID_API_KEY": tally["unknown", 401], "INSUFFICIENT_PERMISSIONS": tally["reader", 403],
        "ROUTE_NOT_FOUND": tally["writer", 404], "RATE_LIMIT_EXCEEDED": tally["limited", 429],
    }  # fmt: skip
    assert refused == collections.Counter(expected)
    for name in KEYS:
        usage = shown[name]["usage"]
        assert usage["requests"] == tally[name, 200], name
        assert sum(usage["refusals"].values()) == sum(n for (key, status), n in tally.items() if key == name and status >= 400)


def test_a_real_prometheus_scrapes_and_answers_for_every_family(upstream, tmp_path):
    with Gateway(upstream.port, KEYS, admin=True, tls=True, plain_too=True) as gateway:
        port = free_port()
        (tmp_path / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
            f"scrape_configs: [{{job_name: bearward, static_configs: [{{targets: ['127.0.0.1:{gateway.admin_port}']}}]}}]\n"
        )
        command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
        with open(tmp_path / "log", "wb") as log:
            server = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
        try:
            wait_for("prometheus listens", lambda: is_listening(port))

            def query(text):
                url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(text)}"
                return json.loads(urllib.request.urlopen(url, timeout=10).read())["data"]["result"]

            seconds = float(os.environ.get("SCRAPE_SECONDS", "8"))
            end = time.monotonic() + seconds
            wire = Wire(gateway.plain_port)
            while time.monotonic() < end:
                for name in ("reader", "limited", "expired"):
                    wire.status("/v1/models", gateway.tokens[name])
                time.sleep(0.01)
            families = [line.split()[2:4] for line in asked(gateway, "/metrics").splitlines() if line.startswith("# TYPE")]
            assert len(families) > 25
            suffix = {"counter": "_total", "histogram": "_count", "gauge": ""}
            wait_for("a scrape of all", lambda: query('up{job="bearward"} == 1') and query("bearward_requests_total"))
            # Every family has a sample, and Prometheus answers for each.
            text = asked(gateway, "/metrics")
            empty = []
            for name, kind in families:
                if not samples(text, name + suffix[kind]):
                    empty.append(name)
                    continue
                wait_for(name, lambda name=name, kind=kind: query(name + suffix[kind]))
            assert empty == [], empty
            assert query("sum(rate(bearward_requests_total[5s]))")
            assert query("histogram_quantile(0.95, sum by (le) (rate(bearward_request_duration_seconds_bucket[5s])))")
            failed = query("sum(scrape_samples_scraped == 0)")
            assert not failed, failed
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


def test_schemathesis_finds_no_fault(upstream):
    with Gateway(upstream.port, KEYS, admin=True) as gateway:
        command = [
            sys.executable.replace("python3", "python").rsplit("/", 1)[0] + "/st", "run",
            f"http://127.0.0.1:{gateway.admin_port}/api/openapi.json", "--header", "Authorization: Bearer the-admin-token",
            "--exclude-path", "/api/v1/events", "--max-examples", os.environ.get("EXAMPLES", "25"), "--no-color",
            "--request-timeout", "20", "--seed", os.environ.get("SEED", "1"),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=gateway.path)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.parametrize("kind", ["full", "fifo"])
def test_an_unwritable_log_loses_lines_and_no_request(upstream, tmp_path, kind):
    path = "/dev/full" if kind == "full" else tmp_path / "fifo"
    if kind == "fifo":
        os.mkfifo(path)
    logs = f"log: {{format: json, access_to: {path}, audit_to: {path}}}\n"
    with Gateway(upstream.port, KEYS, admin=True, config=logs) as gateway:
        wire = Wire(gateway.port)
        long = "/v1/models/" + "x" * 5000
        # A line has some 600 bytes, because its path is truncated.
        requests = 20_000 if kind == "fifo" else 2000
        for _ in range(requests):
            assert wire.status("/v1/models" if kind == "full" else long, gateway.tokens["reader"]) == 200
        # The number of lines that one address gets.
        for _ in range(20):
            assert wire.status("/v1/models") == 401

        def lost():
            dropped = samples(asked(gateway, "/metrics"), "bearward_log_lines_dropped_total")
            return dropped[f'{{log="{path}"}}']

        if kind == "full":
            # A line per request, another per refusal, and one for the first use of a key.
            wait_for("all lines are counted as lost", lambda: lost() == requests + 20 + 20 + 1)
        else:
            # Lines are lost once the buffer in memory and the pipe are full.
            wait_for("lines are lost", lambda: lost() > 1000)
        assert gateway.process.poll() is None
        assert stopped(gateway) == 0


def test_sigusr1_reopens_the_log_and_a_sample_of_zero_logs_only_refusals(upstream, tmp_path):
    access = tmp_path / "access.log"
    logs = f"log: {{format: json, access_to: {access}, access_sample: 0}}\n"
    with Gateway(upstream.port, KEYS, admin=True, config=logs) as gateway:
        wire = Wire(gateway.port)
        assert wire.status("/v1/models", gateway.tokens["reader"]) == 200
        assert wire.status("/v1/models") == 401
        wait_for("the line is written", lambda: "401" in access.read_text())
        access.rename(tmp_path / "access.log.1")
        gateway.process.send_signal(signal.SIGUSR1)
        wait_for("the file is created again", access.exists)
        assert wire.status("/v1/files", gateway.tokens["reader"], "{}") == 403
        wait_for("the line is written", lambda: "403" in access.read_text())
    assert "200" not in {str(json.loads(line)["status"]) for line in (tmp_path / "access.log.1").read_text().splitlines()}


class Collector(socketserver.StreamRequestHandler):
    """Collector of OTLP over HTTP as JSON, parsed with the protocol's own messages."""

    def handle(self):
        assert self.rfile.readline().startswith(b"POST /v1/traces HTTP/1.1")
        headers = {}
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        assert headers["content-type"] == "application/json"
        export = json.loads(self.rfile.read(int(headers["content-length"])))
        for span in (s for r in export["resourceSpans"] for scope in r["scopeSpans"] for s in scope["spans"]):
            for name in ("traceId", "spanId", "parentSpanId"):
                # OTLP has hex here; JSON of protocol buffers otherwise has base64.
                span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
        self.server.taken.append(json_format.ParseDict(export, ExportTraceServiceRequest()))
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")


def test_spans_reach_a_collector_and_upstream_continues_the_trace(tmp_path):
    heads = []

    class Noting(Answering):
        def handle(self):
            while self.rfile.readline():
                head = {}
                while (line := self.rfile.readline()) not in (b"\r\n", b""):
                    name, _, value = line.decode().partition(":")
                    head[name.lower()] = value.strip()
                heads.append(head)
                self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    with Upstream(("127.0.0.1", 0), Noting) as upstream, Upstream(("127.0.0.1", 0), Collector) as collector:
        collector.taken = []
        for server in (upstream, collector):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        access = tmp_path / "access.log"
        config = (
            f"traces: {{endpoint: 'http://127.0.0.1:{collector.port}', sample: 1, service_name: gate}}\n"
            f"log: {{format: json, access_to: {access}}}\n"
        )
        with Gateway(upstream.port, KEYS, admin=True, config=config) as gateway:
            given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            for trace in (given, given[:-1] + "0", None):
                asked_for = urllib.request.Request(f"http://127.0.0.1:{gateway.port}/v1/models")
                asked_for.add_header("Authorization", f"Bearer {gateway.tokens['reader']}")
                if trace:
                    asked_for.add_header("traceparent", trace)
                assert urllib.request.urlopen(asked_for, timeout=10).status == 200
            Wire(gateway.port).status("/v1/models")
            assert stopped(gateway) == 0
        spans = [s for r in collector.taken for rs in r.resource_spans for ss in rs.scope_spans for s in ss.spans]
        services = {a.value.string_value for r in collector.taken for rs in r.resource_spans for a in rs.resource.attributes}
        assert "gate" in services and len(spans) == 3, spans
        continued, begun, refused = spans
        fields = [{a.key: a.value.string_value or a.value.int_value for a in span.attributes} for span in spans]
        assert continued.trace_id.hex() == given[3:35] and continued.parent_span_id.hex() == given[36:52]
        assert heads[0]["traceparent"] == f"00-{given[3:35]}-{continued.span_id.hex()}-01"
        # A caller's decision not to record a trace holds for upstream, too.
        assert heads[1]["traceparent"].startswith(f"00-{given[3:35]}-") and heads[1]["traceparent"].endswith("-00")
        assert heads[2]["traceparent"] == f"00-{begun.trace_id.hex()}-{begun.span_id.hex()}-01"
        assert fields[0]["http.response.status_code"] == 200 and fields[0]["bearward.route"] == "models"
        assert fields[2]["error.type"] == "MISSING_API_KEY" and fields[2]["http.response.status_code"] == 401
        assert all(0 < s.start_time_unix_nano <= s.end_time_unix_nano and s.kind == 2 for s in spans)
        assert json.loads(access.read_text().splitlines()[2])["trace_id"] == begun.trace_id.hex()


def test_a_missing_collector_loses_spans_and_no_request(upstream):
    traces = f"traces: {{endpoint: 'http://127.0.0.1:{free_port()}', sample: 1}}\n"
    with Gateway(upstream.port, KEYS, admin=True, config=traces) as gateway:
        wire = Wire(gateway.port)
        for _ in range(50):
            assert wire.status("/v1/models", gateway.tokens["reader"]) == 200
        wait_for("the spans are counted", lambda: samples(asked(gateway, "/metrics"), "bearward_spans_dropped_total")[""] == 50)
        began = time.monotonic()
        assert stopped(gateway) == 0 and time.monotonic() - began < 5


def test_the_schema_accepts_the_example_and_refuses_invalid_configurations():
    schema = json.loads((ROOT / "config.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    validator.validate(yaml.safe_load((ROOT / "config.example.yaml").read_text()))
    for name in ("unknown-field", "three-faults", "duration-without-unit", "preset-misspelled", "nothing-required"):
        text = (ROOT / f"tests/data/invalid/{name}.config.yaml").read_text()
        assert not validator.is_valid(yaml.safe_load(text)), name
