"""Status page in a real Chromium: live updates, escaping, accessibility, changes of keys.

`SCREENSHOTS=docs` writes the pictures of the documentation.
"""

import contextlib
import datetime
import http.client
import http.server
import json
import os
import pathlib
import re
import ssl
import threading
import time

import axe_core_python
import pytest
from playwright.sync_api import expect, sync_playwright

from gateway import ROOT, Gateway, issue, wait_for

EVIL = "<img src=x onerror=alert(1)>"
KEYS = {
    "checkout-service": ["--permissions", "read,write", "--rate", "600/1m/60", "--max-concurrent", "8", "--expires-in", "80d"],
    "nightly-eval": ["--permissions", "read", "--rate", "20/1m/20", "--expires-in", "12d"],
    EVIL: ["--permissions", "read"],
    "platform-admin": ["--permissions", "admin", "--expires-in", "90d"],
}
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]
# axe-core from its Python package; `AXE` is the path of another version.
AXE = os.environ.get("AXE") or str(pathlib.Path(axe_core_python.__file__).parent / "axe.min.js")
LOOKS = [(width, scheme) for width in (360, 1920) for scheme in ("light", "dark")]


class Model(http.server.BaseHTTPRequestHandler):
    """Upstream that answers every request with a list of one model."""

    ANSWER = json.dumps({"object": "list", "data": [{"id": "tiny", "object": "model"}]}).encode()

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(self.ANSWER)))
        self.end_headers()
        self.wfile.write(self.ANSWER)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def model():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


class Load:
    """Load of mixed sequential requests until the end of the `with` block."""

    def __init__(self, gateway):
        self.gateway, self.ends = gateway, threading.Event()
        self.thread = threading.Thread(target=self.run)

    def ask(self, path, key=None):
        context = ssl.create_default_context(cafile=self.gateway.ca)
        with contextlib.closing(http.client.HTTPSConnection("localhost", self.gateway.port, context=context, timeout=10)) as c:
            c.request("GET", path, headers={"Authorization": f"Bearer {self.gateway.tokens.get(key, key)}"} if key else {})
            answer = c.getresponse()
            answer.read()
            return answer.status

    def run(self):
        kinds = [("/v1/models", "checkout-service")] * 6 + [
            ("/v1/models", "nightly-eval"), ("/v1/models", EVIL), ("/v1/models", None), ("/v1/models", "sk-nobody"),
            ("/v1/fine_tunes/<x>".replace("<", "%3C"), "checkout-service"), ("/v1/organization/users", "nightly-eval"),
        ]
        while not self.ends.is_set():
            for path, key in kinds:
                self.ask(path, key)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join(timeout=30)


@pytest.fixture(scope="module")
def gateway():
    with model() as port, Gateway(port, KEYS, tls=True, admin=True) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        browser.close()


class Seen:
    """Open page, with the errors and foreign requests on it."""

    def __init__(self, browser, gateway, path="/", **options):
        self.context = browser.new_context(**options)
        self.context.add_init_script(
            "window.violations = []; document.addEventListener('securitypolicyviolation', (e) => violations.push(e.violatedDirective))"
        )
        self.page = self.context.new_page()
        self.wrong, self.foreign = [], []
        self.origin = f"http://127.0.0.1:{gateway.admin_port}"
        self.page.on("console", lambda message: self.wrong.append(message.text) if message.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: self.wrong.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self._note(request.url))
        self.page.goto(self.origin + path)

    def _note(self, url):
        if not url.startswith(self.origin + "/") and not url.startswith("data:"):
            self.foreign.append(url)

    def assert_clean(self):
        assert self.page.evaluate("window.violations") == []
        assert self.wrong == [] and self.foreign == []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


def is_live(page):
    page.get_by_text("Live", exact=True).wait_for(timeout=5000)


def test_the_page_updates_under_load_and_shows_a_refusal_within_a_second(browser, gateway):
    with Load(gateway) as load, Seen(browser, gateway) as seen:
        page = seen.page
        is_live(page)
        requests = page.get_by_text(re.compile(r"^requests: [\d,]+$"))
        before = requests.inner_text()
        took = []
        for number in range(5):
            path = f"/v1/nowhere/{number}"
            assert load.ask(path, "checkout-service") == 404
            since = time.monotonic()
            page.get_by_text(f"GET {path}").wait_for(timeout=5000)
            took.append(time.monotonic() - since)
        print(f"in the list of refusals after {max(took):.2f} s at most")
        # One of five may be late on a loaded machine.
        assert sorted(took)[-2] <= 1.0, took
        assert requests.inner_text() != before
        row = page.locator("#refusals ~ ol > li").filter(has_text="/v1/nowhere/4")
        for part in ("ROUTE_NOT_FOUND", "key_", "127.0.0.1", "Add a route"):
            assert part in row.inner_text()
        assert page.locator(".tap > li").count() <= 100
        seen.assert_clean()


def test_text_from_callers_is_shown_as_text(browser, gateway):
    with Load(gateway) as load, Seen(browser, gateway) as seen:
        is_live(seen.page)
        load.ask("/v1/x'\"%3Cscript%3Ealert(2)%3C/script%3E", EVIL)
        seen.page.get_by_text("script%3Ealert(2)").wait_for(timeout=5000)
        expect(seen.page.get_by_text(EVIL, exact=True).first).to_be_visible()
        assert seen.page.locator("img").count() == 0 and seen.page.locator("script").count() == 1
        # The dialog of the key also shows its name.
        seen.page.locator("li").filter(has_text=EVIL).get_by_role("button", name="Revoke").click()
        expect(seen.page.locator("#dialog-title")).to_have_text(f"Revoke {EVIL}")
        seen.page.keyboard.press("Escape")
        assert seen.page.locator("img").count() == 0
        seen.assert_clean()


def figures(page):
    """Lines of text on the page, without ages that change with time."""
    lines = [line.strip() for line in page.locator("main").inner_text().splitlines()]
    return [re.sub(r"\bup \d+[smhd]\b|\d+[smhd] ago", "", line) for line in lines if line]


def test_without_a_script_the_first_paint_has_the_same_figures(browser, gateway):
    with Load(gateway):
        wait_for("50 requests", lambda: json_of(gateway, "/api/v1/status")["requests"] > 50)

    def both():
        with Seen(browser, gateway) as seen, Seen(browser, gateway, java_script_enabled=False) as still:
            is_live(seen.page)
            # At least one event has updated the page.
            seen.page.wait_for_timeout(1200)
            seen.page.evaluate("document.documentElement.classList.remove('js')")
            still.page.reload()
            return figures(seen.page), figures(still.page)

    with_script, without = both()
    assert len(with_script) > 30

    # Limits refill and rates fall between the two readings: figures may differ, but no line may be
    # missing.
    def shape(lines):
        return [re.sub(r"[\d.,]+( [µm]?s)?", "#", line) for line in lines]

    assert shape(with_script) == shape(without)
    steady = [line for line in with_script if not re.search(r"left at once|second|most|^[\d.–]", line)]
    assert steady == [line for line in without if not re.search(r"left at once|second|most|^[\d.–]", line)]
    assert any("nightly-eval" in line for line in steady)


def json_of(gateway, path):
    connection = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())["data"]


def assert_accessible(page):
    page.evaluate(pathlib.Path(AXE).read_text() + "; 0")
    found = page.evaluate("axe.run(document, {resultTypes: ['violations', 'incomplete']})")
    violations = [(rule["id"], [node["html"][:120] for node in rule["nodes"]]) for rule in found["violations"]]
    assert violations == [], violations
    assert len(found["passes"]) > 15


@pytest.mark.parametrize("width, scheme", LOOKS)
def test_the_page_is_accessible_and_fits_its_width(browser, gateway, width, scheme):
    with Load(gateway):
        height = 760 if width == 360 else 1080
        view = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
        with Seen(browser, gateway, bypass_csp=True, **view) as seen:
            page = seen.page
            is_live(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert_accessible(page)
            page.get_by_role("button", name="New key").click()
            assert_accessible(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_works_by_keyboard_alone(browser, gateway):
    with Seen(browser, gateway) as seen:
        page = seen.page
        is_live(page)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "To the refusals"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "New key"
        page.keyboard.press("Enter")
        expect(page.locator("#dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#dialog")).to_be_hidden()
        # Updates do not move the focus.
        page.wait_for_timeout(2200)
        assert page.evaluate("document.activeElement.textContent") == "New key"


def test_a_key_is_created_rotated_and_revoked(browser, gateway):
    load = Load(gateway)
    with Seen(browser, gateway) as seen:
        page = seen.page
        seen.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=seen.origin)
        is_live(page)
        page.get_by_role("button", name="New key").click()
        page.get_by_label("Name").fill("made-here")
        page.get_by_label("Requests a minute").fill("120")
        page.get_by_label("Admin token").fill("wrong")
        page.get_by_role("button", name="Create").click()
        page.get_by_text("The provided API key is invalid").wait_for(timeout=5000)
        page.get_by_label("Admin token").fill("the-admin-token")
        page.get_by_role("button", name="Create").click()
        first = copied(page)
        assert load.ask("/v1/models", first) == 200
        page.get_by_role("button", name="Done").click()
        # The secret is shown once. The close event clears it, a moment after the click.
        expect(page.locator("#secret")).to_have_value("")
        row = page.locator("li").filter(has_text="made-here")
        row.wait_for(timeout=5000)
        assert re.search(r"requests-1m: \d+ of 12 left", row.inner_text())

        row.get_by_role("button", name="Rotate").click()
        page.get_by_label("The old secret works").fill("0s")
        page.locator("#go").click()
        second = copied(page)
        page.get_by_role("button", name="Done").click()
        assert second != first
        assert load.ask("/v1/models", second) == 200
        assert load.ask("/v1/models", first) == 401

        row.get_by_role("button", name="Revoke").click()
        page.locator("#go").click()
        row.get_by_text("disabled").wait_for(timeout=5000)
        assert load.ask("/v1/models", second) == 401
        # The browser's message about the wrong token is the only error.
        assert all("401" in wrong for wrong in seen.wrong) and len(seen.wrong) == 1, seen.wrong
        assert page.evaluate("window.violations") == []


def test_the_dialog_stays_open_until_the_new_secret_arrives(browser, gateway):
    """A slow change: until it is answered, the dialog can't be closed or reused."""
    with Seen(browser, gateway) as seen:
        page = seen.page
        is_live(page)
        proceed = threading.Event()
        page.route("**/api/v1/keys", lambda route: (proceed.wait(10), route.continue_()) if route.request.method == "POST" else route.continue_())
        page.get_by_role("button", name="New key").click()
        page.get_by_label("Name").fill("slowly-made")
        page.get_by_label("Admin token").fill("the-admin-token")
        seen.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=seen.origin)
        # The route's handler blocks this thread, so timers in the page itself record its state.
        page.evaluate("""() => {
            window.seen = [];
            const record = () => window.seen.push([document.getElementById('dialog').open, document.getElementById('close').disabled]);
            setTimeout(() => { document.getElementById('dialog').dispatchEvent(new Event('cancel', {cancelable: true})) || record(); }, 300);
            setTimeout(() => { document.getElementById('close').click(); record(); }, 400);
            setTimeout(() => { document.getElementById('dialog').close(); }, 500);
        }""")
        threading.Timer(1.0, proceed.set).start()
        page.get_by_role("button", name="Create").click()
        secret = copied(page)
        assert page.evaluate("window.seen") == [[True, True], [True, True]]
        assert page.locator("#dialog-title").inner_text() == "New key"
        assert Load(gateway).ask("/v1/models", secret) == 200


def copied(page):
    """Secret in the dialog, read through its copy button."""
    page.get_by_label("Secret, shown this once").wait_for(timeout=5000)
    page.get_by_role("button", name="Copy").click()
    page.get_by_text("Copied").wait_for(timeout=5000)
    secret = page.evaluate("navigator.clipboard.readText()")
    assert secret.startswith("bwk_") and secret == page.locator("#secret").input_value()
    return secret


def test_a_mounted_store_shows_commands_instead_of_buttons(browser, tmp_path):
    store = tmp_path / "keys"
    (store / "..1").mkdir(parents=True)
    Gateway.create(tmp_path / "made.yaml", "mounted", "--permissions", "read")
    (tmp_path / "made.yaml").rename(store / "..1" / "keys.yaml")
    (store / "..data").symlink_to("..1")
    (store / "keys.yaml").symlink_to("..data/keys.yaml")
    with model() as port, Gateway(port, {}, admin=True, config=f"keys: {{path: {store}}}") as gateway, Seen(browser, gateway) as seen:
        is_live(seen.page)
        expect(seen.page.get_by_text("bearward keys create --keys keys --name NAME --permissions read")).to_be_visible()
        expect(seen.page.get_by_text("It is a mounted Secret or ConfigMap")).to_be_visible()
        assert seen.page.get_by_role("button").count() == 0
        seen.assert_clean()


def test_the_page_is_small_and_reports_a_lost_connection(browser):
    with model() as port, Gateway(port, KEYS, tls=True, admin=True) as gateway:
        with Load(gateway):
            wait_for("a hundred refusals", lambda: sum(json_of(gateway, "/api/v1/status")["refusals"].values()) > 100)
        with Seen(browser, gateway) as seen:
            weight = seen.page.evaluate("performance.getEntriesByType('navigation')[0].transferSize")
            print(f"{weight} bytes with a hundred refusals")
            assert 3000 < weight <= 40 * 1024
            is_live(seen.page)
            gateway.process.kill()
            seen.page.get_by_text("Not connected").wait_for(timeout=5000)


def test_a_refused_reload_is_shown_with_its_line(browser):
    with model() as port, Gateway(port, KEYS, admin=True) as gateway, Seen(browser, gateway) as seen:
        is_live(seen.page)
        store = gateway.path / "keys.yaml"
        good = store.read_text()
        store.write_text(good + "  - id: key_broken0001\n    permisions: [read]\n")
        seen.page.get_by_text("The keys on disk were refused").wait_for(timeout=5000)
        shown = seen.page.locator(".alert").inner_text()
        line = len(good.splitlines()) + 1
        assert re.search(rf"keys\.yaml:({line}|{line + 1}):\d+: ", shown), shown
        store.write_text(good)
        seen.page.locator(".alert").wait_for(state="detached", timeout=5000)
        seen.assert_clean()


@pytest.mark.skipif("SCREENSHOTS" not in os.environ, reason="pictures are taken only if SCREENSHOTS is set")
def test_pictures(browser):
    folder = ROOT / os.environ["SCREENSHOTS"]
    keys = {name: arguments for name, arguments in KEYS.items() if name != EVIL}
    with model() as port, Gateway(port, keys, tls=True, admin=True) as gateway, Load(gateway):
        issue(gateway.authority, gateway.path, ends=datetime.datetime.now() + datetime.timedelta(days=61))
        # The charts need some data.
        time.sleep(float(os.environ.get("SECONDS", 60)))
        for width, scheme in LOOKS:
            view = {"viewport": {"width": width, "height": 760 if width == 360 else 1000}, "color_scheme": scheme}
            with Seen(browser, gateway, **view) as seen:
                is_live(seen.page)
                seen.page.screenshot(path=folder / f"page-{width}-{scheme}.png")
    for picture in folder.glob("page-*.png"):
        assert picture.stat().st_size > 10_000
