"""State that survives: `kill -9` under load, a full disk, damaged journals, and two processes on one directory."""

import http.client
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import threading
import time

import pytest

from fleet import Stub
from gateway import Gateway, binary, wait_for

# How often the process is killed; the issue's own number takes some two minutes.
KILLS = int(os.environ.get("KILLS", "12"))

# Each request uses ten tokens.
COST = 10
ANSWER = b'{"usage":{"prompt_tokens":4,"completion_tokens":6}}'
BODY = b'{"model":"m","max_tokens":6}'
BUDGET = 1_000_000
ROUTES = "routes: [{name: all, paths: ['/**'], permission: read, model_in: body}]\nworkers: 1\n"


@pytest.fixture(scope="module")
def stub():
    with Stub(ANSWER) as server:
        yield server


def gateway(stub, state, budget=BUDGET, **more):
    keys = {"spender": ["--permissions", "read", "--budget", f"tokens={budget}/month"]}
    return Gateway(stub.port, keys, config=f"{ROUTES}state: {{path: {state}}}\n", admin=True, **more)


def post(port, token, timeout=10):
    """Status of a request, or None if the connection broke."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", "/x", BODY, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def used(gateway):
    """What the one key has used of its budget."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=10)
    connection.request("GET", "/api/v1/keys", headers={"Authorization": "Bearer the-admin-token"})
    [key] = json.load(connection.getresponse())["data"]["keys"]
    connection.close()
    return key["limits"]["budgets"][0]["used"]


class Spenders:
    """Threads that send requests, and note when each was answered."""

    def __init__(self, gateway, count=4):
        self.answered, self.has_ended = [], False
        port, token = gateway.port, gateway.tokens["spender"]

        def spend():
            while not self.has_ended and (status := post(port, token)) is not None:
                assert status == 200
                self.answered.append(time.monotonic())

        self.threads = [threading.Thread(target=spend, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def join(self):
        self.has_ended = True
        for thread in self.threads:
            thread.join(30)


def test_a_kill_under_load_costs_a_second_of_settlements_and_makes_no_budget_larger(stub, tmp_path):
    dice = random.Random(22)
    with gateway(stub, tmp_path / "state") as replica:
        answered, before, count = 0, 0, len(stub.times)
        for _ in range(KILLS):
            spenders = Spenders(replica)
            wait_for("requests are answered", lambda: len(spenders.answered) > 20)
            time.sleep(dice.uniform(0, 1.2))
            killed = time.monotonic()
            replica.process.kill()
            spenders.join()
            replica.process.wait()
            replica.start()
            now = used(replica)
            # A write takes a moment on a busy machine, and an answer is seen a moment after it was settled.
            durable = answered + sum(moment < killed - 1.5 for moment in spenders.answered)
            answered += len(spenders.answered)
            assert now >= before, "never less than before"
            assert now >= durable * COST, (now, durable * COST)
            assert now <= (len(stub.times) - count) * COST, "what was not used is not refused"
            # What the last second has lost stays lost.
            answered = min(answered, now // COST)
            before = now


def test_what_is_left_is_granted_after_a_restart_and_no_more(stub, tmp_path):
    with gateway(stub, tmp_path / "state", budget=100) as replica:
        token = replica.tokens["spender"]
        assert [post(replica.port, token) for _ in range(6)] == [200] * 6
        for end in (signal.SIGTERM, signal.SIGKILL):
            if end == signal.SIGKILL:
                # The write of the last second.
                wait_for("the state is written", lambda: is_written(tmp_path / "state", 80))
            replica.process.send_signal(end)
            replica.process.wait(timeout=30)
            replica.start()
            assert post(replica.port, token) == 200
            assert post(replica.port, token) == 200
        assert used(replica) == 100
        assert post(replica.port, token) == 429


def is_written(state, amount):
    """Whether the journal has this use of a budget."""
    return f'"used":{amount}'.encode() in (state / "journal").read_bytes()


def test_a_full_disk_costs_a_message_and_nothing_that_was_written(stub, tmp_path):
    def no_room():
        # Each file of the process may have 2 KiB, as on a disk that is full.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    with gateway(stub, tmp_path / "state", before_start=no_room) as replica:
        token = replica.tokens["spender"]
        wait_for("the state can't be written", lambda: post(replica.port, token) == 200 and replica.admin_status()["state"]["trouble"])
        status = replica.admin_status()["state"]
        assert status["write_failures"] >= 1 and "large" in status["trouble"], status
        assert sum("can't be written" in line for line in replica.lines) == 1, "one message a minute"
        full = used(replica)
        replica.process.kill()
        replica.process.wait()
        replica.before_start = None
        replica.start()
        kept = used(replica)
        assert 0 < kept <= full
        assert post(replica.port, token) == 200
        wait_for("the state is written", lambda: is_written(tmp_path / "state", kept + COST))


def test_a_damaged_journal_is_read_or_refused_and_makes_no_budget_larger(stub, tmp_path):
    dice = random.Random(22)
    with gateway(stub, tmp_path / "state") as replica:
        token, amounts, journal = replica.tokens["spender"], [0], tmp_path / "state" / "journal"
        for _ in range(8):
            assert post(replica.port, token) == 200
            amounts.append(amounts[-1] + COST)
            wait_for("the state is written", lambda: is_written(tmp_path / "state", amounts[-1]))
        replica.process.kill()
        replica.process.wait()
        whole = journal.read_bytes()
        damaged = [whole[:cut] for cut in dice.sample(range(33, len(whole)), 10)]
        for _ in range(20):
            at, bit = dice.randrange(len(whole)), 1 << dice.randrange(8)
            damaged.append(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        for number, text in enumerate(damaged):
            journal.write_bytes(text)
            replica.start()
            now = used(replica)
            # A cut loses what is behind it; a flipped bit one record at most.
            assert now in (amounts if number < 10 else amounts[-2:]), now
            assert post(replica.port, token) == 200
            replica.process.kill()
            replica.process.wait()


@pytest.mark.parametrize("what", ["garbage", "empty", "newer", "gone"])
def test_a_state_that_is_lost_as_a_whole_is_no_start(stub, tmp_path, what):
    state = tmp_path / "state"
    with gateway(stub, state) as replica:
        assert post(replica.port, replica.tokens["spender"]) == 200
        wait_for("the state is written", lambda: is_written(state, COST))
        config = replica.path / "bearward.yaml"
        run = subprocess.run([binary(), "run", "--config", str(config)], capture_output=True, text=True, timeout=30)
        assert run.returncode == 78 and "another process uses" in run.stderr, run.stderr
        replica.process.kill()
        replica.process.wait()
        journal = state / "journal"
        whole = journal.read_bytes()
        text = {"garbage": os.urandom(5000), "empty": b"", "newer": whole[:14] + b"\x09\x00" + whole[16:]}.get(what)
        journal.unlink() if text is None else journal.write_bytes(text)
        if what == "newer":
            # The version is in each record, too: a header alone is damage.
            journal.write_bytes(text.replace(b"\xff\x62\x77\x01", b"\xff\x62\x77\x09"))
        for command in ("check", "run"):
            run = subprocess.run([binary(), command, "--config", str(config)], capture_output=True, text=True, timeout=30)
            assert run.returncode == 78 and "state.path" in run.stderr, run.stderr
            assert "remove" in run.stderr, run.stderr


def test_a_read_only_root_needs_one_directory(stub, tmp_path):
    with gateway(stub, tmp_path / "state") as replica:
        assert post(replica.port, replica.tokens["spender"]) == 200
        wait_for("the state is written", lambda: is_written(tmp_path / "state", COST))
        # The first three are the test's own.
        links = [link for link in pathlib.Path(f"/proc/{replica.process.pid}/fd").iterdir() if int(link.name) > 2]
        opened = {os.readlink(link) for link in links}
        written = {name for name in opened if name.startswith("/") and not name.startswith(("/proc", "/dev", str(tmp_path)))}
        assert not written, "no other file is open"
        modes = {path.name: oct(path.stat().st_mode & 0o777) for path in [tmp_path / "state", *(tmp_path / "state").iterdir()]}
        assert modes["state"] == "0o700" and modes["journal"] == "0o600", modes
