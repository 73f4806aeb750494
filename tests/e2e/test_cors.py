"""Pages of other origins in a real Chromium: what their scripts can read of bearward's answers."""

import contextlib
import http.server
import json
import threading

import pytest
from playwright.sync_api import sync_playwright

from gateway import Gateway, free_port, wait_for
from test_page import FLAGS

KEYS = {
    "reader": ["--permissions", "read"],
    "limited": ["--permissions", "read", "--rate", "1/1h/1"],
}
# Sends a request from the page, and returns all of the answer that the page's script can read.
ASK = """async ([url, options]) => {
    try {
        const answer = await fetch(url, options);
        const headers = Object.fromEntries(answer.headers.entries());
        return {status: answer.status, headers, body: await answer.text()};
    } catch (error) {
        return {failed: error.name};
    }
}"""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, headers=()):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = self.server.body
        self.send_response(200)
        for name, value in [*headers, ("content-type", self.server.type), ("content-length", str(len(body)))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")

    def do_GET(self):
        self.answer()

    def log_message(self, *_):
        pass


class Model(Handler):
    """Upstream with CORS of its own, which browsers would refuse beside bearward's."""

    def do_GET(self):
        self.server.methods.append(self.command)
        self.answer([("access-control-allow-origin", "*"), ("x-hidden", "1"), ("x-own", "2"), ("vary", "accept")])

    do_POST = do_HEAD = do_PUT = do_OPTIONS = do_GET


@contextlib.contextmanager
def serving(handler, body, kind):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.body, server.type, server.methods = body, kind, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def upstream():
    with serving(Model, b'{"object": "list"}', "application/json") as server:
        yield server


@pytest.fixture(scope="module")
def page_port():
    with serving(Handler, b"<!doctype html><title>app</title>", "text/html") as server:
        yield server.server_address[1]


# Each test has a gateway of its own: the log lines of clients without a key are limited.
@pytest.fixture
def gateway(upstream, page_port):
    # The name `localhost` is listed, the address of the same server is not.
    config = f"""
cors: {{origins: ["http://localhost:{page_port}"], expose: [x-own]}}
routes:
  - {{name: cookies, paths: [/cookies], public: true, cors: {{origins: ["http://localhost:{page_port}"], credentials: true}}}}
  - {{name: open, paths: [/open], public: true, cors: {{origins: ["*"]}}}}
  - {{preset: openai}}
"""
    with Gateway(upstream.server_address[1], KEYS, tls=True, plain_too=True, config=config) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=["http/1.1", "h2"])
def url(request, gateway):
    return gateway.url if request.param == "h2" else f"http://localhost:{gateway.plain_port}"


class Page:
    """A page of one origin."""

    def __init__(self, browser, origin):
        self.context = browser.new_context(ignore_https_errors=True)
        self.page = self.context.new_page()
        self.page.goto(origin + "/")

    def ask(self, url, key=None, **options):
        if key:
            options.setdefault("headers", {})["Authorization"] = f"Bearer {key}"
        return self.page.evaluate(ASK, [url, options])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


@pytest.fixture
def listed(browser, page_port):
    with Page(browser, f"http://localhost:{page_port}") as page:
        yield page


@pytest.fixture
def unlisted(browser, page_port):
    with Page(browser, f"http://127.0.0.1:{page_port}") as page:
        yield page


def code(answer):
    return json.loads(answer["body"])["error"]["code"]


def requests(gateway, since):
    """Access lines that were written after the first `since` lines of the log."""
    events = [json.loads(line) for line in gateway.lines[since:] if line.startswith("{")]
    return [event for event in events if event.get("message") == "request"]


def test_a_page_reads_answers_and_refusals_with_their_headers(gateway, listed, url):
    assert listed.page.evaluate("async (url) => (await fetch(url)).status", f"{url}/open") == 200
    answer = listed.ask(f"{url}/v1/models", gateway.tokens["reader"])
    assert (answer["status"], answer["body"]) == (200, '{"object": "list"}')
    # A header that is not exposed is hidden: the browser applies the list.
    assert answer["headers"]["x-request-id"] and answer["headers"]["x-own"] == "2" and "x-hidden" not in answer["headers"]

    missing = listed.ask(f"{url}/v1/models")
    assert (missing["status"], code(missing)) == (401, "MISSING_API_KEY")
    assert missing["headers"]["www-authenticate"] == 'Bearer realm="bearward"' and missing["headers"]["x-request-id"]
    invalid = listed.ask(f"{url}/v1/models", "sk-nobody")
    assert (invalid["status"], code(invalid)) == (401, "INVALID_API_KEY")

    json_type = {"Content-Type": "application/json", "X-Stainless-Lang": "js"}
    denied = listed.ask(f"{url}/v1/files", gateway.tokens["reader"], method="POST", headers=json_type, body="{}")
    assert (denied["status"], code(denied)) == (403, "INSUFFICIENT_PERMISSIONS")
    nowhere = listed.ask(f"{url}/nowhere", gateway.tokens["reader"], method="PUT")
    assert (nowhere["status"], code(nowhere)) == (404, "ROUTE_NOT_FOUND")


def test_a_page_reads_how_long_it_has_to_wait(upstream, browser, page_port):
    config = f'cors: {{origins: ["http://localhost:{page_port}"]}}\n'
    with Gateway(upstream.server_address[1], KEYS, tls=True, plain_too=True, config=config) as gateway:
        with Page(browser, f"http://localhost:{page_port}") as page:
            first = page.ask(f"{gateway.url}/v1/models", gateway.tokens["limited"])
            assert (first["status"], first["headers"]["x-ratelimit-remaining-requests"]) == (200, "0")
            for url in (gateway.url, f"http://localhost:{gateway.plain_port}"):
                limited = page.ask(f"{url}/v1/models", gateway.tokens["limited"])
                assert (limited["status"], code(limited)) == (429, "RATE_LIMIT_EXCEEDED")
                headers = limited["headers"]
                assert 3500 < int(headers["retry-after"]) <= 3600, headers
                assert headers["ratelimit"].startswith('"requests-1h";r=0') and headers["x-ratelimit-remaining-requests"] == "0"
                assert headers["ratelimit-policy"] and headers["x-request-id"], headers


def test_a_preflight_needs_no_key_and_does_not_reach_upstream(gateway, upstream, listed, url):
    before, methods = len(gateway.lines), len(upstream.methods)
    path = f"/v1/models/{free_port()}"
    assert listed.ask(url + path, gateway.tokens["reader"], headers={"X-Custom": "1"})["status"] == 200

    def of_path():
        found = [r for r in requests(gateway, before) if r["path"] == path]
        assert all(r["protocol"] == ("HTTP/2" if url == gateway.url else "HTTP/1.1") for r in found), found
        return [(r["method"], r["status"], r.get("key_id") is not None) for r in found]

    wait_for("both lines are there", lambda: len(of_path()) == 2)
    assert sorted(of_path()) == [("GET", 200, True), ("OPTIONS", 204, False)]
    assert upstream.methods[methods:] == ["GET"]


def test_an_origin_that_is_not_listed_gets_nothing(gateway, upstream, unlisted, listed, url):
    before, methods = len(gateway.lines), len(upstream.methods)
    failed = {"failed": "TypeError"}
    assert unlisted.ask(f"{url}/v1/models", gateway.tokens["reader"]) == failed
    assert unlisted.ask(f"{url}/v1/models") == failed
    assert unlisted.ask(f"{url}/nowhere") == failed
    wait_for("all lines are there", lambda: len(requests(gateway, before)) >= 3)
    assert {(r["method"], r["status"]) for r in requests(gateway, before)} == {("OPTIONS", 401), ("GET", 401)}
    assert upstream.methods[methods:] == [], "the browser did not send the request behind the preflight"
    # The page and the server work: a route for all origins can be read.
    assert unlisted.ask(f"{url}/open")["status"] == 200

    # A sandboxed frame of a listed page has the origin `null`.
    ask_in_frame = """(url) => new Promise((resolve) => {
        addEventListener("message", (event) => resolve(event.data), {once: true});
        const frame = document.createElement("iframe");
        frame.sandbox = "allow-scripts";
        frame.srcdoc = `<script>fetch("${url}").then((a) => a.status, (e) => e.name).then((r) => parent.postMessage(r, "*"))</` + `script>`;
        document.body.append(frame);
    })"""
    assert listed.page.evaluate(ask_in_frame, f"{url}/v1/models") == "TypeError"
    assert listed.page.evaluate(ask_in_frame, f"{url}/open") == 200


def test_credentials_of_the_browser_need_credentials_in_cors(listed, url):
    assert listed.ask(f"{url}/cookies", credentials="include")["status"] == 200
    assert listed.ask(f"{url}/open", credentials="include") == {"failed": "TypeError"}
    assert listed.ask(f"{url}/v1/models", credentials="include") == {"failed": "TypeError"}


def test_without_cors_no_refusal_can_be_read(upstream, browser, page_port):
    with Gateway(upstream.server_address[1], KEYS) as gateway, Page(browser, f"http://localhost:{page_port}") as page:
        assert page.ask(f"{gateway.url}/v1/models") == {"failed": "TypeError"}
        assert page.ask(f"{gateway.url}/v1/models", gateway.tokens["reader"]) == {"failed": "TypeError"}
