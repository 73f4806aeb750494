"""Long measurements of the queue, run by `make measure-queue`.

Measures fairness with a real llama.cpp server and with a server of known speed, the memory and the CPU
of many who wait, and whether every slot comes back after 100,000 random requests. Prints figures, and
exits with 1 if one exceeds its promised bound.
"""

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import random
import resource
import socket
import statistics
import sys
import time


from conftest import llama_server
from gateway import Gateway, wait_for

MODEL_SLOTS = 4
failed = []


def report(subject, figure, good=True):
    print(f"{'ok  ' if good else 'FAIL'} {subject}: {figure}", flush=True)
    if not good:
        failed.append(subject)


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


# --- Clients and a server of known speed ---


class Answer:
    def __init__(self, head, body):
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        self.body = body
        self.queued = int(self.headers.get("x-bearward-queued-ms", 0)) / 1000

    @property
    def tokens(self):
        return json.loads(self.body)["usage"]["completion_tokens"]


async def ask(port, key, body, more=""):
    """Sends one request on a connection of its own, and returns its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n{more}"
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(Answer(head, b"").headers.get("content-length", 0))
        return Answer(head, await reader.readexactly(length))
    finally:
        writer.close()


def has_left(side):
    """Whether the client has closed the connection, noticed or not."""
    peek = socket.fromfd(side.fileno(), socket.AF_INET, socket.SOCK_STREAM)
    try:
        return peek.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        peek.close()


class Server:
    """A model server that takes a known time for each request, and counts how many are there at once."""

    def __init__(self, seconds):
        self.seconds, self.sockets, self.most, self.requests = seconds, set(), 0, 0
        self.is_held = asyncio.Event()
        self.is_held.set()

    async def serve(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(Answer(b"HTTP/1.1 0\r\n" + head, b"").headers.get("content-length", 0))
                body = json.loads(await reader.readexactly(length) or b"{}")
                side = writer.get_extra_info("socket")
                self.sockets.add(side)
                self.requests += 1
                self.most = max(self.most, sum(not has_left(other) for other in self.sockets))
                try:
                    # A client that leaves closes the connection, as llama.cpp sees it.
                    left = asyncio.ensure_future(reader.read(1))
                    work = asyncio.ensure_future(self.work(body))
                    await asyncio.wait({left, work}, return_when=asyncio.FIRST_COMPLETED)
                    if left.done():
                        work.cancel()
                        return
                    left.cancel()
                    await asyncio.wait({left})
                finally:
                    self.sockets.discard(side)
                tokens = body.get("max_tokens", 1)
                text = json.dumps({"usage": {"prompt_tokens": 0, "completion_tokens": tokens}}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(text) + text)
        writer.close()

    async def work(self, body):
        await self.is_held.wait()
        await asyncio.sleep(self.seconds * body.get("max_tokens", 1))

    async def __aenter__(self):
        self.listener = await asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=4096)
        self.port = self.listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.listener.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others)


def gateway(port, keys, queue, config=""):
    keys = {name: ["--permissions", "read,write", *more] for name, more in keys.items()}
    config += "\nlimits: {connections: 30000, in_flight: 30000}\nlog: {access: false}\n"
    return Gateway(port, keys, config=config, fields=f", queue: {queue}", admin=True)


def status(of):
    return of.admin_status()["queues"][0]


async def queue_until(condition, of, holds):
    """Waits until `holds` is true of the queue's state, for 30 s at most. Returns the last state."""
    states = []

    def is_reached():
        states.append(status(of))
        return holds(states[-1])

    with contextlib.suppress(AssertionError):
        await asyncio.to_thread(wait_for, condition, is_reached)
    return states[-1]


def waiting(state):
    return sum(state["waiting"].values())


def is_at_rest(state):
    return state["slots_taken"] == 0 and waiting(state) == 0


# --- Fairness with llama.cpp ---


def chat(tokens, seed=1):
    message = {"role": "user", "content": f"a bear guards the door {seed}"}
    return {"model": "tiny", "messages": [message], "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}


async def flood(port, key, count, tokens):
    """Sends requests of different lengths at once. Returns their answers, and the time until the last one."""
    began, chance = time.monotonic(), random.Random(1)
    lengths = [chance.randint(tokens // 2, tokens * 3 // 2) for _ in range(count)]
    answers = await asyncio.gather(*(ask(port, key, chat(length, seed)) for seed, length in enumerate(lengths)))
    assert all(answer.status == 200 for answer in answers), {answer.status for answer in answers}
    return answers, time.monotonic() - began


async def of_llama(rounds, short, long):
    """`short` and `long`: mean lengths of answers in tokens, for many rounds and for long waits."""
    with llama_server() as (port, _), gateway(port, {"flood": [], "other": []}, f"{{slots: {MODEL_SLOTS}, max_waiting: 1000, max_wait: 10m}}") as through:
        key = through.tokens["flood"]
        await flood(port, key, 20, short)
        direct, guarded = [], []
        for _ in range(rounds):
            for target, times in random.sample([(port, direct), (through.port, guarded)], 2):
                times.append((await flood(target, key, 200, short))[1])
        ratios = [before / after for before, after in zip(direct, guarded)]
        report("throughput of 200 requests at once, of direct (median of rounds)",
               f"{statistics.median(ratios):.3f} {[round(one, 3) for one in ratios]}", statistics.median(ratios) >= 0.99)

        others = []

        async def other():
            while True:
                answer = await ask(through.port, through.tokens["other"], chat(long, 1000))
                assert answer.status == 200
                others.append(answer.queued)
                await asyncio.sleep(1)

        asking = asyncio.create_task(other())
        answers, took = await flood(through.port, key, 200, long)
        asking.cancel()
        service = took * MODEL_SLOTS / (len(answers) + len(others))
        assert len(others) >= 20, "longer requests are needed"
        wait = quantile(others, 0.99)
        report("the other's p99 wait, in service times of a request",
               f"{wait / service:.2f} ({wait:.3f} s of {service:.3f} s; {len(others)} requests)", wait <= service)
        report("the flood's mean wait", f"{statistics.mean(answer.queued for answer in answers):.1f} s")


# --- Shares with a server of known speed ---


async def keep_asking(port, key, tokens, until, served):
    while time.monotonic() < until:
        answer = await ask(port, key, {"model": "m", "max_tokens": tokens})
        if time.monotonic() < until:
            served.append(answer)


async def of_weights(seconds):
    async with Server(0.0005) as server:
        keys = {"heavy": ["--weight", "3"], "light": ["--weight", "1"]}
        with gateway(server.port, keys, "{slots: 8, max_waiting: 1000, max_wait: 10m}") as through:
            served, until = {"heavy": [], "light": []}, time.monotonic() + seconds
            # The requests of the light key are larger: they share by tokens.
            sizes = {"heavy": 20, "light": 60}
            jobs = [keep_asking(through.port, through.tokens[name], sizes[name], until, served[name]) for name in keys for _ in range(40)]
            await asyncio.gather(*jobs)
            tokens = {name: sum(answer.tokens for answer in served[name]) for name in keys}
            ratio = tokens["heavy"] / tokens["light"]
            report(f"tokens by weights 3 and 1 in {seconds} s", f"{ratio:.3f} : 1 {tokens}", abs(ratio / 3 - 1) <= 0.05)
            report("most at upstream with 8 slots", server.most, server.most <= 8)


async def of_classes(seconds):
    service = 0.05
    async with Server(service) as server:
        keys = {"batch": ["--priority", "batch"], "human": ["--priority", "interactive"]}
        with gateway(server.port, keys, "{slots: 4, max_waiting: 1000, max_wait: 10m}") as through:
            batch, humans, until = [], [], time.monotonic() + seconds
            jobs = [keep_asking(through.port, through.tokens["batch"], 1, until, batch) for _ in range(60)]
            tasks = [asyncio.create_task(job) for job in jobs]
            while time.monotonic() < until:
                humans.append((await ask(through.port, through.tokens["human"], {"max_tokens": 1})).queued)
                await asyncio.sleep(random.random() * 0.2)
            await asyncio.gather(*tasks)
            report("interactive against a flood of batch: longest wait, in service times",
                   f"{max(humans) / service:.2f} ({len(humans)} requests)", max(humans) <= service * 1.1)
            until, batch, humans = time.monotonic() + seconds, [], []
            jobs = [keep_asking(through.port, through.tokens["batch"], 1, until, batch) for _ in range(30)]
            jobs += [keep_asking(through.port, through.tokens["human"], 1, until, humans) for _ in range(30)]
            await asyncio.gather(*jobs)
            share = len(batch) / (len(batch) + len(humans))
            report("share of batch against a flood of interactive", f"{share:.3f}", 0.045 <= share <= 0.06)


# --- Every slot comes back ---


async def of_random(count):
    async with Server(0.001) as server:
        classes = {"a": "interactive", "b": "standard", "c": "batch", "d": "standard"}
        keys = {name: ["--priority", priority] for name, priority in classes.items()}
        outcomes, left = {}, [count]
        with gateway(server.port, keys, "{slots: 6, max_waiting: 60, max_wait: 60ms}") as through:

            async def client(chance):
                while left[0] > 0:
                    left[0] -= 1
                    key = through.tokens[chance.choice("abcd")]
                    asking = ask(through.port, key, {"max_tokens": chance.choice([0, 1, 1, 2, 9])})
                    try:
                        patience = chance.random() * 0.05 if chance.random() < 0.2 else 30
                        outcome = (await asyncio.wait_for(asking, patience)).status
                    except TimeoutError:
                        outcome = "left"
                    outcomes[outcome] = outcomes.get(outcome, 0) + 1

            await asyncio.gather(*(client(random.Random(seed)) for seed in range(96)))
            state = await queue_until("every slot comes back", through, is_at_rest)
            report(f"{count} random requests", f"{outcomes}, at the end {state}", is_at_rest(state) and sum(outcomes.values()) >= count)
            report("most at upstream with 6 slots", server.most, server.most <= 6)
            is_answered = set(outcomes) <= {200, 503, "left"}
            report("answers", sorted(map(str, outcomes)), is_answered)


# --- Many who wait ---


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def of_many(count):
    async with Server(0) as server:
        server.is_held.clear()
        queue = f"{{slots: 1, max_waiting: {count}, max_wait: 10m}}"
        with gateway(server.port, {"a": []}, queue) as through:
            before, tasks = through.rss_kib(), []
            while len(tasks) < count + 1:
                more = min(200, count + 1 - len(tasks))
                tasks += [asyncio.create_task(ask(through.port, through.tokens["a"], {"max_tokens": 0})) for _ in range(more)]
                state = await queue_until(f"{len(tasks) - 1} wait", through, lambda state: waiting(state) == len(tasks) - 1)
            each = (through.rss_kib() - before) / count
            report(f"memory of each of {waiting(state)} who wait", f"{each:.1f} KiB", each <= 20 and waiting(state) == count)
            began, used = time.monotonic(), cpu_seconds(through.process.pid)
            await asyncio.sleep(10)
            share = (cpu_seconds(through.process.pid) - used) / (time.monotonic() - began)
            report("CPU while all wait", f"{100 * share:.2f}% of a core", share <= 0.02)
            server.is_held.set()
            answers = await asyncio.gather(*tasks)
            report("answers afterwards", f"{sum(answer.status == 200 for answer in answers)} of {count + 1}", all(answer.status == 200 for answer in answers))


async def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--only", default="llama,weights,classes,random,many")
    arguments.add_argument("--seconds", type=int, default=60)
    arguments.add_argument("--rounds", type=int, default=9)
    given = arguments.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    measurements = {
        "llama": lambda: of_llama(given.rounds, 150, 600),
        "weights": lambda: of_weights(given.seconds),
        "classes": lambda: of_classes(given.seconds / 2),
        "random": lambda: of_random(100_000),
        "many": lambda: of_many(min(10_000, hard // 2 - 1000)),
    }
    for name in given.only.split(","):
        await measurements[name]()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    asyncio.run(main())
