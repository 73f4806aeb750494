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
import tempfile
import threading
import time

import axe_core_python
import pytest
from playwright.sync_api import expect, sync_playwright

from fleet import Stub
from gateway import ROOT, Gateway, issue, wait_for
from issuer import Issuer, Key
from proxies import DOORS, Doors
from redis_server import Redis

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

    ANSWER = json.dumps({"object": "list", "data": [{"id": "tiny", "object": "model", "owned_by": "vllm"}]}).encode()

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
        assert int(re.search(r"([\d,]+) ×", row.inner_text()).group(1).replace(",", "")) >= 5, "one line with a count"
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
    changing = re.compile(r"left at once|second|minute|last|requests|×| to |^[\d.,–]")
    steady = [line for line in with_script if not changing.search(line)]
    assert steady == [line for line in without if not changing.search(line)]
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
            page.locator("#minutes summary").click()
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
        assert page.evaluate("document.activeElement.textContent") == "The last five minutes as numbers"
        page.keyboard.press("Enter")
        expect(page.locator("#minutes table")).to_be_visible()
        # Updates do not close it.
        page.wait_for_timeout(1500)
        expect(page.locator("#minutes table")).to_be_visible()
        # The table can be scrolled by keyboard, so it has the focus, too.
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('#minutes') !== null")
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
            print(f"{weight} bytes with more than a hundred refusals")
            assert 3000 < weight <= 16 * 1024
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


def key_id(gateway, name):
    return "key_" + gateway.tokens[name].split("_")[1]


def under_pointer(page, chart, slot):
    """The text that a chart shows while the pointer is on a slot, counted from the newest."""
    slots = page.locator(f"#chart-{chart} .slots i")
    value = slots.nth(slots.count() - 1 - slot)
    box = value.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    shown = value.evaluate("(slot) => getComputedStyle(slot, '::after').content")
    # Chromium returns either the text or the attribute's name.
    assert shown not in ("none", "normal", ""), "nothing is shown"
    return value.get_attribute("data-v")


def test_charts_have_a_scale_units_and_a_value_under_the_pointer_without_a_script(browser, gateway):
    with Load(gateway):
        wait_for("six seconds of samples", lambda: len(json_of(gateway, "/api/v1/status")["trend"]["requests_per_second"]) > 2)
    with Seen(browser, gateway, java_script_enabled=False, viewport={"width": 1920, "height": 1000}) as seen:
        page = seen.page
        for chart, unit, text in [("requests", "a second", r"[\d.,]+/s, "), ("in-flight", "requests", r"\d+, "), ("added", "at most", r"[\d.]+( [µm]?s)?, ")]:
            tile = page.locator(f"#chart-{chart}")
            assert unit in tile.locator(".figure").inner_text()
            top, middle, bottom = tile.locator(".scale span").all_inner_texts()
            assert re.match(r"[\d.]+(k| [µm]?s)?$", top) and bottom == "0", (top, middle, bottom)
            assert tile.locator(".ends").inner_text().split("\n")[0].startswith("5 min ago")
            assert re.match(text + r"(now|\d:\d\d ago)$", under_pointer(page, chart, 1)), chart
            assert "on a scale from 0 to " + top in tile.locator("[role=img]").get_attribute("aria-label")
        # The value of a slot is shown above its chart, within the tile.
        assert page.evaluate("""() => {
            const { top, height } = document.querySelector('#chart-added .canvas').getBoundingClientRect();
            return height > 40 && top > 0;
        }""")
        # What is not under the pointer shows nothing.
        other = page.locator("#chart-requests .slots i").first
        assert other.evaluate("(slot) => getComputedStyle(slot, '::after').content") in ("none", "normal")


@pytest.mark.parametrize("width, scheme", LOOKS)
def test_a_key_has_a_page_with_its_limits_and_its_last_five_minutes(browser, gateway, width, scheme):
    with Load(gateway) as load:
        id = key_id(gateway, "nightly-eval")

        # More than its limit allows, also while the limit regains some.
        for _ in range(25):
            load.ask("/v1/models", "nightly-eval")

        def has_refusals():
            steps = json_of(gateway, f"/api/v1/keys/{id}/trend")["steps"]
            return any(step["refusals"].get("RATE_LIMIT_EXCEEDED") for step in steps)

        wait_for("refusals in the history", has_refusals)
        view = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
        with Seen(browser, gateway, bypass_csp=True, **view) as seen:
            page = seen.page
            is_live(page)
            page.get_by_role("link", name="nightly-eval").first.click()
            page.wait_for_url(f"**/keys/{id}")
            is_live(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert_accessible(page)
            text = page.locator("main").inner_text()
            for part in ("nightly-eval", id, "active", "20 requests in 1m, 20 at once", "left at once", "INSUFFICIENT_PERMISSIONS", "127.0.0.1"):
                assert part in text, part
            assert page.locator("#chart-tokens").count() == 0, "no tokens, no chart"
            counts = page.locator("#minutes tr").filter(has_text="RATE_LIMIT_EXCEEDED").locator("td").all_inner_texts()
            assert int(counts[0].replace(",", "")) > 0 and counts[1] == "0"
            assert re.search(r"\d/min", under_pointer(page, "refusals", 0))
            # It is updated, too.
            before = page.locator("#about").inner_text()
            for _ in range(3):
                load.ask("/v1/organization/users", "nightly-eval")
            wait_for("an update", lambda: page.locator("#about").inner_text() != before, seconds=10)
            page.get_by_role("button", name="Revoke").click()
            expect(page.locator("#dialog-title")).to_have_text("Revoke nightly-eval")
            page.keyboard.press("Escape")
            assert seen.page.locator("script").count() == 1


def test_the_page_of_an_unknown_key_says_so(browser, gateway):
    with Seen(browser, gateway, path="/keys/key_%3Cb%3Enobody") as seen:
        expect(seen.page.get_by_role("heading", name="No key has this id")).to_be_visible()
        expect(seen.page.get_by_text("key_%3Cb%3Enobody")).to_be_visible()
        seen.page.get_by_role("link", name="Status of bearward").click()
        seen.page.wait_for_url(seen.origin + "/")
        # The browser's message about the status is the only one.
        assert all("404" in wrong for wrong in seen.wrong), seen.wrong


def test_a_key_page_outlives_its_key(browser):
    with model() as port, Gateway(port, KEYS, tls=True, admin=True) as gateway:
        with Seen(browser, gateway, path=f"/keys/{key_id(gateway, EVIL)}") as seen:
            is_live(seen.page)
            expect(seen.page.locator("h2", has_text=EVIL)).to_be_visible()
            expect(seen.page.get_by_text("was not used in the last five minutes")).to_be_visible()
            assert seen.page.locator("img").count() == 0
            (gateway.path / "keys.yaml").write_text("keys: []\n")
            expect(seen.page.get_by_role("heading", name="No key has this id")).to_be_visible()


SECRET = {"ID_SECRET": "0123456789abcdef" * 2}
LONG = "a-name-that-is-as-long-as-names-get-" * 3
EVERYTHING = """
routes: [{name: chat, paths: ['/**'], permission: read, model_in: body}]
keys: {path: KEYS, id_secret: {env: ID_SECRET}}
state: {path: STATE}
shared: {redis: REDIS}
groups:
  - {name: team, budgets: [{tokens: 500000, every: day}, {requests: 90000, every: month}]}
IDENTITIES
"""


@contextlib.contextmanager
def everything(keys):
    """bearward with a queue, token limits, budgets, replicas, a door and identities."""
    with Redis() as redis, Issuer(Key("one")) as issuer, Stub(b'{"usage":{"prompt_tokens":40,"completion_tokens":60}}') as stub:
        with tempfile.TemporaryDirectory() as state:
            config = EVERYTHING.replace("STATE", f"{state}/state").replace("REDIS", f"redis://127.0.0.1:{redis.port}")
            config = config.replace("IDENTITIES", issuer.config())
            fields = ", queue: {slots: 4, max_waiting: 100, max_wait: 1m}"
            with Doors(stub, keys, config, {"nginx": DOORS["nginx"]}, admin=True, fields=fields, environment=SECRET) as gateway:
                wait_for("the server of shared limits", lambda: json_of(gateway, "/api/v1/status")["shared"]["is_available"])
                yield gateway, issuer


def chat(gateway, token, name="llama-3", path="/v1/chat/completions"):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)) as connection:
        body = json.dumps({"model": name, "max_tokens": 60, "messages": []})
        connection.request("POST", path, body, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status


@pytest.mark.parametrize("width, scheme", LOOKS)
def test_all_sections_are_there_accessible_and_small(browser, width, scheme):
    with_tokens = ["--permissions", "read", "--tokens", "50k/1m", "--group", "team", "--budget", "tokens=1M/month"]
    keys = {f"{LONG}{number}": with_tokens for number in range(30)} | {"chatter": with_tokens}
    with everything(keys) as (gateway, issuer):
        for number in range(30):
            assert chat(gateway, gateway.tokens[f"{LONG}{number}"], f"model-{number}") == 200
        assert chat(gateway, gateway.tokens["chatter"]) == 200
        assert chat(gateway, issuer.token()) == 200
        # Each of a hundred forged tokens and paths that are as long as possible.
        for number in range(120):
            chat(gateway, f"nobody-{number}", "<&>" * 80, "/" + f"%3C{number}&'\"" * 100)
            chat(gateway, gateway.tokens[f"{LONG}{number % 30}"], "<&>" * 80, f"/v1/{number}//" + "&" * 300)
        wait_for("this replica is known", lambda: len(json_of(gateway, "/api/v1/status")["shared"]["replicas"]) == 1)
        view = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
        with Seen(browser, gateway, bypass_csp=True, **view) as seen:
            page = seen.page
            is_live(page)
            for section in ("endpoints", "queues", "doors", "replicas", "identities", "groups", "tokens", "keys"):
                expect(page.locator(f"#{section}")).to_be_visible()
                assert page.locator(f"#{section}").inner_text().count("\n") >= 2, section
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert_accessible(page)
        if folder := os.environ.get("LOOK"):
            with Seen(browser, gateway, **view) as seen:
                seen.page.screenshot(path=pathlib.Path(folder) / f"all-{width}-{scheme}.png", full_page=True)
        page_of_key = f"/keys/{key_id(gateway, 'chatter')}"
        for path in ("/", page_of_key, f"/keys/{key_id(gateway, LONG + '0')}"):
            size = size_of(gateway, path)
            print(f"{size} bytes without gzip at {path}")
            assert 10 * 1024 < size < 60 * 1024, path
        with Seen(browser, gateway, path=page_of_key, bypass_csp=True, **view) as seen:
            page = seen.page
            is_live(page)
            text = page.locator("main").inner_text()
            for part in ("50,000 tokens in 1m", "Budget of 1,000,000", "Budget of 500,000", "999,900 left, 100 used", "Group\nteam"):
                assert part in text, part
            expect(page.locator("#chart-tokens")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert_accessible(page)
            if folder := os.environ.get("LOOK"):
                page.screenshot(path=pathlib.Path(folder) / f"key-all-{width}-{scheme}.png", full_page=True)


def size_of(gateway, path):
    connection = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200 and answer.getheader("content-encoding") is None
        return len(answer.read())


def test_sections_that_are_not_configured_are_not_shown(browser, gateway):
    with Seen(browser, gateway, java_script_enabled=False) as seen:
        for section in ("queues", "doors", "replicas", "identities", "groups", "tokens", "acme", "chart-tokens"):
            assert seen.page.locator(f"#{section}").count() == 0, section


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
            with Seen(browser, gateway, f"/keys/{key_id(gateway, 'nightly-eval')}", **view) as seen:
                is_live(seen.page)
                seen.page.screenshot(path=folder / f"page-key-{width}-{scheme}.png")
    for picture in folder.glob("page-*.png"):
        assert picture.stat().st_size > 10_000
