"""Servers under comparison, all configured for the same work.

The work: find the request's key among 1,000, or answer 401; enforce its limit; remove the
credential; forward the request over kept connections; log one line per request, in batches.
bearward also checks the key's permission for the route, and enforces two limits and a number of
requests in flight where the others enforce one limit.
"""

import contextlib
import hashlib
import os
import pathlib
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
import zlib

from processes import Process, free_port, is_listening, wait_for

ROOT = pathlib.Path(__file__).resolve().parents[1]
KEYS = 1000
# Answer to a chat request. `$` names a variable of nginx.
CHAT_ANSWER = (
    '{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"tiny","choices":[{"index":0,'
    '"message":{"role":"assistant","content":"%s"},"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":190,"completion_tokens":16,"total_tokens":206}}'
)
BIG = 10 * 1000 * 1000
ANSWER = '{"object":"list","data":[{"id":"tiny","object":"model"}]}'


# The first is what bearward prefers, and all that the loads offer, so that all servers use the same suite.
SUITES = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def key(number):
    """Token of this number in bearward's format; to the other servers it is plain text."""
    signed = f"bwk_{number:010}_{number:032}"
    checksum, rest = "", zlib.crc32(signed.encode())
    for _ in range(6):
        rest, digit = divmod(rest, 62)
        checksum = DIGITS[digit] + checksum
    return signed + checksum


def bearward_binary():
    binary = pathlib.Path(os.environ.get("BEARWARD", ROOT / "target/profiled/bearward"))
    if not binary.exists():
        raise SystemExit(f"no binary at {binary}: `make bench` builds it")
    return str(binary)


def make_certificate(directory):
    """P-256 key and certificate of a subject, and a PEM file of both for HAProxy."""
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost".split()
    )
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "tls.key", "-out", "tls.crt"]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
    both = (directory / "tls.crt").read_text() + (directory / "tls.key").read_text()
    (directory / "both.pem").write_text(both)


class Origin:
    """Upstream of all subjects: nginx, which counts requests, and a server of events."""

    def __init__(self, directory, cores):
        self.directory = directory / "origin"
        self.directory.mkdir()
        self.port, self.events_port = free_port(), free_port()
        self.socket = self.directory / "origin.sock"
        (self.directory / "big").write_bytes(bytes(BIG))
        # For loads that use OpenSSL. Envoy chooses the suite by itself.
        self.openssl = self.directory / "openssl.cnf"
        self.openssl.write_text(
            "openssl_conf = all\n[all]\nssl_conf = tls\n[tls]\nsystem_default = suites\n"
            f"[suites]\nCiphersuites = {SUITES.split(':')[0]}\n"
        )
        self.tokens = self.directory / "tokens"
        self.tokens.write_text("".join(f"{key(number)}\n" for number in range(KEYS)))
        (self.directory / "nginx.conf").write_text(f"""
daemon off; user root; worker_processes 1; pid nginx.pid; error_log error.log crit;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_timeout 1h; keepalive_requests 1000000000; sendfile on; tcp_nopush on;
  client_body_buffer_size 64k; default_type application/json;
  server {{
    listen 127.0.0.1:{self.port} backlog=4096; listen unix:{self.socket}; root {self.directory};
    location / {{ return 200 '{ANSWER}'; }}
    location = /v1/models/credential {{ return 200 'credential:$http_authorization'; }}
    location = /v1/chat/completions {{ return 200 '{CHAT_ANSWER % "a few words"}'; }}
    location = /credential/chat/completions {{ return 200 '{CHAT_ANSWER % "credential:$http_authorization"}'; }}
    location = /v1/models/big {{ alias {self.directory}/big; }}
    location = /status {{ stub_status; }}
  }}
}}""")
        self.nginx = Process(["nginx", "-p", str(self.directory), "-c", "nginx.conf"], cores)
        events = ["python3", str(ROOT / "bench/events.py"), "serve", str(self.events_port)]
        self.events = Process(events, cores)
        wait_for("the origin listens", lambda: is_listening(self.port) and is_listening(self.events_port))

    def requests(self):
        """Number of requests so far, including this one."""
        status = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=30).read().decode()
        return int(status.splitlines()[2].split()[2])

    def end(self):
        self.nginx.end()
        self.events.end()


class Subject:
    """A proxy in front of the origin: `port` without TLS, `tls_port` with it (or None)."""

    # The request of the check, and the answer if the credential does not reach the origin.
    CHECK = ("/v1/models/credential", None, "credential:")
    # Path of a chat request that opens a stream.
    STREAM_PATH = "/v1/models/events"
    HAS_TLS = True
    # Parts of the work that this server does not do.
    LACKS = ""
    # Whether it may be too slow for a load. Its round is then left out.
    MAY_FALL_BEHIND = False

    def __init__(self, name, directory, origin, workers, cores):
        self.name, self.origin, self.workers = name, origin, workers
        self.directory = directory / f"{name}-{workers}"
        self.directory.mkdir()
        self.port, self.tls_port = free_port(), free_port() if self.HAS_TLS else None
        make_certificate(self.directory)
        log = open(self.directory / "stderr", "wb")
        self.process = Process(self.command(), cores, stderr=log, environment=self.environment())
        try:
            wait_for(f"{name} listens", self.is_up)
            self.must_do_the_work()
        except BaseException:
            self.end()
            raise

    @staticmethod
    def missing():
        """What is not installed, or None."""

    def environment(self):
        return {}

    def is_up(self):
        if self.process.child.poll() is not None:
            raise SystemExit(f"{self.name} has ended: {(self.directory / 'stderr').read_text()}")
        return is_listening(self.port) and (not self.tls_port or is_listening(self.tls_port))

    def urls(self):
        yield f"http://127.0.0.1:{self.port}"
        if self.tls_port:
            yield f"https://127.0.0.1:{self.tls_port}"

    @staticmethod
    def opened(url, credential, body=None):
        asked = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
        if credential is not None:
            asked.add_header("Authorization", f"Bearer {credential}")
        return urllib.request.urlopen(asked, timeout=30, context=ssl._create_unverified_context())

    def status(self, url, credential):
        path, body, _ = self.CHECK
        try:
            with self.opened(url + path, credential, body) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""

    def must_do_the_work(self):
        """Fails unless the subject accepts a good key, removes it, and refuses all others itself."""
        good = key(KEYS - 1)
        altered = good[:-1] + ("x" if good[-1] != "x" else "y")
        wrong_keys = {"another key": "sk-other", "an altered key": altered, "a part of a key": good[:-1], "no key": None}
        wrong = []
        for url in self.urls():
            status, answer = self.status(url, good)
            if status != 200 or good in answer or self.CHECK[2] not in answer:
                wrong.append(f"a good key: {status} {answer}")
            before = self.origin.requests()
            statuses = {case: self.status(url, wrong_key)[0] for case, wrong_key in wrong_keys.items()}
            wrong += [f"{case}: {status}" for case, status in statuses.items() if status != 401]
            # The second request for the count counts as well.
            if self.origin.requests() != before + 1:
                wrong.append("the origin saw a request that was refused")
        if wrong:
            raise SystemExit(f"{self.name} does not do the work: {', '.join(wrong)}; see {self.directory}")

    @contextlib.contextmanager
    def measured(self):
        """Around each load of this subject."""
        yield

    def end(self):
        self.process.end()


class Nginx(Subject):
    """nginx; a second instance of it is the control."""

    def command(self):
        pairs = "".join(f'"Bearer {key(number)}" key_{number:04};\n' for number in range(KEYS))
        (self.directory / "keys.map").write_text(pairs)
        (self.directory / "nginx.conf").write_text(f"""
daemon off; user root; worker_processes {self.workers}; pid nginx.pid; error_log error.log crit; worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
http {{
  map_hash_max_size 8192; map_hash_bucket_size 128;
  map $http_authorization $key_id {{ default ''; include keys.map; }}
  limit_req_zone $key_id zone=keys:10m rate=900000r/s; limit_req_status 429;
  log_format line escape=json '{{"time":"$time_iso8601","id":"$request_id","client":"$remote_addr","method":"$request_method",'
    '"path":"$uri","status":$status,"key":"$key_id","bytes":$body_bytes_sent,"duration":$request_time}}';
  access_log access.log line buffer=64k flush=1s;
  keepalive_timeout 75s; keepalive_requests 1000000000; tcp_nodelay on; server_tokens off;
  client_body_buffer_size 64k; client_max_body_size 32m;
  ssl_certificate tls.crt; ssl_certificate_key tls.key; ssl_protocols TLSv1.2 TLSv1.3;
  ssl_session_cache shared:tls:10m; ssl_buffer_size 16k;
  ssl_prefer_server_ciphers on; ssl_conf_command Ciphersuites {SUITES};
  upstream origin {{ server 127.0.0.1:{self.origin.port}; keepalive 256; keepalive_requests 1000000000; }}
  upstream events {{ server 127.0.0.1:{self.origin.events_port}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{self.port} backlog=4096 reuseport;
    listen 127.0.0.1:{self.tls_port} ssl http2 backlog=4096 reuseport;
    proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Authorization '';
    proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Request-Id $request_id;
    proxy_buffer_size 64k; proxy_buffers 16 64k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0;
    proxy_read_timeout 300s;
    limit_req zone=keys burst=500000 nodelay;
    if ($key_id = '') {{ return 401; }}
    location / {{ proxy_pass http://origin; }}
    location = /v1/models/events {{ proxy_pass http://events; proxy_buffering off; }}
  }}
}}""")
        return ["nginx", "-p", str(self.directory), "-c", "nginx.conf"]


class HaProxy(Subject):
    DELAY = "option http-no-delay"

    @staticmethod
    def missing():
        return None if shutil.which("haproxy") else "haproxy"

    def command(self):
        pairs = "".join(f"{key(number)} key_{number:04}\n" for number in range(KEYS))
        (self.directory / "keys.map").write_text(pairs)
        front = f"127.0.0.1:{self.port}"
        front_tls = f"127.0.0.1:{self.tls_port} ssl crt {self.directory}/both.pem alpn h2,http/1.1"
        (self.directory / "haproxy.cfg").write_text(f"""
global
  nbthread {self.workers}
  maxconn 9000
  tune.bufsize 65536
  tune.ssl.cachesize 20000
  ssl-default-bind-options ssl-min-ver TLSv1.2
  ssl-default-bind-ciphersuites {SUITES}
  log ring@lines local0
ring lines
  format raw
  maxlen 1200
  size 1048576
defaults
  mode http
  log global
  option httplog
  {self.DELAY}
  http-reuse aggressive
  timeout connect 5s
  timeout client 75s
  timeout server 300s
  timeout http-keep-alive 75s
backend limits
  stick-table type string len 64 size 100k expire 10m store http_req_rate(60s)
frontend in
  bind {front} backlog 4096
  bind {front_tls} backlog 4096
  http-request set-var(txn.key) http_auth_bearer,map_str({self.directory}/keys.map)
  http-request deny deny_status 401 unless {{ var(txn.key) -m found }}
  http-request track-sc0 var(txn.key) table limits
  http-request deny deny_status 429 if {{ sc_http_req_rate(0,limits) gt 1000000000 }}
  http-request del-header Authorization
  http-request set-header X-Forwarded-For %[src]
  unique-id-format %[uuid()]
  unique-id-header X-Request-Id
  use_backend events if {{ path /v1/models/events }}
  default_backend origin
backend origin
  server origin 127.0.0.1:{self.origin.port} pool-max-conn 256
backend events
  server events 127.0.0.1:{self.origin.events_port} pool-max-conn 256
""")
        return ["haproxy", "-db", "-f", str(self.directory / "haproxy.cfg")]


class BatchingHaProxy(HaProxy):
    """HAProxy as it is by default: it may hold data back, to send more of it at once."""

    DELAY = ""


class Bearward(Subject):
    """bearward with its admin listener on `admin_port`.

    `options`: `keys` (number of keys), `routes` (number before the one that matches), `endpoint`
    (of the origin; default: TCP), `log` (access log on or off) or `logs` (all fields of `log`),
    `key_ids` (number of keys with own series in metrics), `guards` (whether keys are restricted to
    models and limited in tokens), `kept` (whether keys have budgets, and a state directory keeps them),
    `queue` (number of slots of the upstream), `binary`.
    """

    def __init__(self, name, directory, origin, workers, cores, **options):
        self.options, self.admin_port = options, free_port()
        super().__init__(name, directory, origin, workers, cores)

    def write_keys(self):
        with open(self.directory / "keys.jsonl", "w") as file:
            for number in range(self.options.get("keys", KEYS)):
                digest = hashlib.sha256(key(number).encode()).hexdigest()
                fields = f'"id":"key_{number:07}","hash":"sha256:{digest}","permissions":["read"]'
                file.write(f"{{{fields}{self.guards()}}}\n")
            if self.options.get("keys", KEYS) < KEYS:
                # The key that `must_do_the_work` uses.
                digest = hashlib.sha256(key(KEYS - 1).encode()).hexdigest()
                file.write(f'{{"id":"key_last","hash":"sha256:{digest}","permissions":["read"]}}\n')

    def guards(self):
        """Fields of a key that make its requests' models and tokens matter."""
        if not self.options.get("guards"):
            return ""
        # The default limits, and one of tokens.
        limits = (
            f'{{"{unit}":{amount},"per":"{per}"}}'
            for unit, amount, per in [("requests", 10**9, "1m"), ("requests", 4 * 10**9, "1d"), ("tokens", 4 * 10**9, "1d")]
        )
        budgets = ',"budgets":[{"tokens":4000000000,"every":"month"}]' if self.options.get("kept") else ""
        return f',"models":["tiny*","other-*"],"rate_limits":[{",".join(limits)}]{budgets}'

    def routes(self):
        others = [
            f"  - {{name: other-{number}, paths: [/other/{number}/**], permission: read}}\n"
            for number in range(self.options.get("routes", 0))
        ]
        is_guarded = self.options.get("guards")
        model, free = ("model_in: body, ", "models_free: true, ") if is_guarded else ("", "")
        return (
            "routes:\n"
            + "".join(others)
            + (
                "  - {name: events, paths: [/v1/models/events], permission: read, " + model + "upstream: events}\n"
                "  - {name: models, paths: [/v1/models, /v1/models/**], methods: [GET], " + free + "permission: read}\n"
                "  - {name: chat, paths: [/v1/chat/*], methods: [POST], " + model + "permission: read}\n"
            )
        )

    def command(self):
        self.write_keys()
        endpoint = self.options.get("endpoint", f"http://127.0.0.1:{self.origin.port}")
        config = self.directory / "bearward.yaml"
        config.write_text(
            f"listeners:\n  - address: 127.0.0.1:{self.port}\n  - address: 127.0.0.1:{self.tls_port}\n"
            f"    tls: {{certificate: '{self.directory}/tls.crt', private_key: '{self.directory}/tls.key'}}\n"
            f"admin: {{address: 127.0.0.1:{self.admin_port}}}\nkeys: {{path: {self.directory}/keys.jsonl}}\nworkers: {self.workers}\n"
            "rate_limits: [{requests: 1000000000, per: 1m}, {requests: 4000000000, per: 1d}]\nmax_concurrent: 10000\n"
            "upstreams:\n"
            f"  - {{name: origin, endpoints: ['{endpoint}']{self.queue()}}}\n"
            f"  - {{name: events, endpoints: ['http://127.0.0.1:{self.origin.events_port}']}}\n"
            "limits: {connections: 12000, idle_timeout: 30m}\n"
            f"log: {{{self.logs()}}}\n" + self.metrics() + self.state() + self.routes()
        )
        return [self.options.get("binary") or bearward_binary(), "run", "--config", str(config)]

    def logs(self):
        return self.options.get("logs", f"format: json, access: {str(self.options.get('log', True)).lower()}")

    def queue(self):
        return f", queue: {{slots: {self.options['queue']}}}" if "queue" in self.options else ""

    def state(self):
        return f"state: {{path: {self.directory}/state}}\n" if self.options.get("kept") else ""

    def metrics(self):
        return f"metrics: {{key_ids: {self.options['key_ids']}}}\n" if "key_ids" in self.options else ""
