"""Simulation of replicas that share one limit by leases, for docs/scaling.md: `make simulate-leases`.

Time is virtual: the script `src/shared/lease.lua` runs on a real Redis server, and reads the time of the
simulation in place of its own. So hours of hundreds of replicas take minutes, and every decision about the
limit is that of the script. `Replica` follows `src/limit/leases.rs` and `lease.rs`.

A row: the most that was granted beyond `burst + rate * time` in any span of time, what was granted as a
share of what an ideal limiter would have granted, and the operations of Redis. Loads: even; 90/10, one
replica gets most of it; pause, an even load that stops for a third of the time, then three bursts at one
replica, and then more than the limit at the others; burst, an even load with four bursts in its midst.
"""

import argparse
import collections
import heapq
import itertools
import math
import pathlib
import random
import subprocess
import tempfile
import time

import redis

EPOCH = 1_767_225_600
# Those of src/limit/lease.rs and leases.rs.
LONGEST_LIFE, SHORTEST_LIFE, SMALLEST_BURST = 1.0, 0.002, 8
SHORTEST_PAUSE, LONGEST_PAUSE, REQUESTS_IN_PAUSE, MOST_REQUESTS = 0.002, 0.025, 25, 64
STEP, MEMORY = 0.1, 0.5


class Simulation:
    """`replicas` replicas under one limit. `limit`: requests a minute; `offered`: requests a second; `rtt`: seconds."""

    def __init__(self, server, replicas, limit, burst, offered, load, seconds, rtt=0.001, seed=1):
        self.server, self.seconds, self.rtt = server, seconds, rtt
        source = (pathlib.Path(__file__).parent.parent / "src/shared/lease.lua").read_text()
        self.script = server.register_script(source.replace("redis.call('TIME')", "redis.call('HMGET', 'clock', 's', 'us')"))
        self.now = self.start = 1000.0
        self.events, self.order, self.random = [], itertools.count(), random.Random(seed)
        self.period, self.burst = 60e6 / limit, burst
        life = burst * self.period / 1e6 / 8
        self.life = max(SHORTEST_LIFE, min(LONGEST_LIFE, life))
        self.arrivals, self.spent, self.operations, self.key = [], [], 0, f"bw:{{{random.random()}}}"
        self.end = self.start + seconds
        first_third = (self.start, self.start + seconds / 3) if load == "pause" else (self.start, self.end)
        shares = [0.9] + [0.1 / (replicas - 1)] * (replicas - 1) if load == "90/10" else [1 / replicas] * replicas
        all_replicas = [Replica(self) for _ in range(replicas)]
        for replica, share in zip(all_replicas, shares):
            self.arrive(replica, offered * share, *first_third)
        if load == "pause":
            # The bucket is full. One replica takes all of it, and then the leases of the others come back.
            taken = self.start + 2 * seconds / 3
            self.arrive(all_replicas[-1], 10 * burst, taken, taken + 0.3)
            for replica in all_replicas[:-1]:
                self.arrive(replica, burst, taken + 0.2, self.end)
        if load == "burst":
            # All leases are spent at once, while the bucket is full.
            for replica in all_replicas:
                self.arrive(replica, 40 * burst / replicas, self.start + seconds / 2, self.start + seconds / 2 + 0.1)

    def at(self, moment, work, *arguments):
        heapq.heappush(self.events, (moment, next(self.order), work, arguments))

    def arrive(self, replica, rate, moment, end, request=None):
        """Lets requests come at a rate, from a moment to another."""
        if request:
            self.arrivals.append(moment)
            request()
        moment += self.random.expovariate(rate)
        if moment < end:
            self.at(moment, self.arrive, replica, rate, moment, end, replica.request)

    def ideal(self):
        """Number of requests that one process would have granted."""
        granted, full = 0, self.start
        for moment in sorted(self.arrivals):
            full = max(full, moment)
            if full + self.period / 1e6 - self.burst * self.period / 1e6 <= moment + 1e-9:
                granted, full = granted + 1, full + self.period / 1e6
        return granted

    def call(self, arguments):
        self.operations += 1
        micros = int(self.now * 1e6)
        self.server.hset("clock", mapping={"s": EPOCH + micros // 1_000_000, "us": micros % 1_000_000})
        return self.script(keys=[self.key], args=arguments)

    def run(self):
        """Returns the excess, and the number of requests that were granted."""
        while self.events:
            moment, _, work, arguments = heapq.heappop(self.events)
            self.now = max(self.now, moment)
            work(*arguments)
        lowest, excess = math.inf, -math.inf
        for count, moment in enumerate(sorted(self.spent)):
            above = count - (moment - self.start) * 1e6 / self.period
            lowest = min(lowest, above)
            excess = max(excess, above - lowest + 1 - self.burst)
        return excess, len(self.spent)


class Replica:
    def __init__(self, simulation):
        self.simulation, self.waiting, self.is_asking = simulation, collections.deque(), False
        self.left = self.peak = self.slot = self.ends = self.gone = self.back = self.line = self.full = self.pause = 0
        self.rate, self.counted, self.since = 0.0, 0, simulation.now

    def extra(self):
        if self.simulation.burst < SMALLEST_BURST:
            return 0
        return max(0, math.ceil(self.rate * self.simulation.life) - self.left)

    def request(self):
        now = self.simulation.now
        self.counted += 1
        if (passed := now - self.since) >= STEP:
            kept = math.exp(-passed / MEMORY)
            self.rate = kept * self.rate + (1 - kept) * self.counted / passed
            self.counted, self.since = 0, now
        self.expire()
        if self.left >= 1 and not self.waiting:
            self.left, self.gone = self.left - 1, self.gone + 1
            self.simulation.spent.append(now)
            if self.left < self.peak // 2 and self.extra() and not self.is_asking and now >= self.pause:
                self.ask()
        elif now >= self.pause:
            self.waiting.append(now)
            if not self.is_asking:
                self.ask()

    def expire(self):
        if self.left and self.simulation.now >= self.ends:
            self.back, self.gone, self.left = self.back + self.left, self.gone + self.left, 0

    def ask(self):
        self.is_asking = True
        self.expire()
        batch = [self.waiting.popleft() for _ in range(min(len(self.waiting), MOST_REQUESTS))]
        width = self.simulation.life / 2 * 1e6
        window = ["w", 1, repr(self.simulation.period), self.simulation.burst, repr(width), self.extra()]
        window += [self.slot, self.gone, self.left, self.back, 0, 0, self.line, max(0, round((self.full - self.simulation.now) * 1e6))]
        self.gone = self.back = 0
        arguments = [1, 0, len(batch), 0, 0, 0, *window, *[1] * len(batch)]
        self.simulation.at(self.simulation.now + self.simulation.rtt / 2, self.asked, arguments, self.simulation.now, batch)

    def asked(self, arguments, sent, batch):
        answer = self.simulation.call(arguments)
        self.simulation.at(self.simulation.now + self.simulation.rtt / 2, self.answered, answer, sent, batch)

    def answered(self, answer, sent, batch):
        leased, is_kept, self.slot, lasts, _, full_in, self.line = answer[:7]
        self.full = sent + full_in / 1e6
        self.left = (self.left if is_kept else 0) + leased
        self.peak, self.ends, self.is_asking = self.left, sent + lasts / 1e6, False
        if self.left == 0 and answer[4] == 0:
            self.refused(self.simulation.period / 1e6, sent)
        for index in range(len(batch)):
            refused, wait = answer[7 + 4 * index], answer[8 + 4 * index]
            if refused:
                self.refused(wait / 1e6, sent)
            else:
                self.simulation.spent.append(self.simulation.now)
        if self.simulation.now < self.pause:
            self.waiting.clear()
        if self.waiting:
            self.ask()


    def refused(self, wait, sent):
        pause = min(LONGEST_PAUSE, max(SHORTEST_PAUSE, REQUESTS_IN_PAUSE / max(self.rate, 1)))
        self.pause = sent + min(pause, max(wait, self.simulation.burst * self.simulation.period / 8e6))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", default="3,10,100")
    parser.add_argument("--limits", default="60,600,60000")
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bearward-simulation-") as directory:
        socket = f"{directory}/redis"
        process = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", directory], stdout=subprocess.DEVNULL)
        try:
            while not pathlib.Path(socket).exists():
                time.sleep(0.01)
            rows(redis.Redis(unix_socket_path=socket), arguments)
        finally:
            process.terminate()
            process.wait()


def rows(server, arguments):
    print("| replicas | load | limit, a minute | offered | most over | granted | operations a second | a request |\n|---|---|---|---|---|---|---|---|")
    cases = itertools.product(map(int, arguments.replicas.split(",")), ("even", "90/10", "pause", "burst"), map(int, arguments.limits.split(",")), (0.5, 1, 10))
    for replicas, load, limit, times in cases:
        burst, offered = max(1, limit // 10), limit / 60 * times
        simulation = Simulation(server, replicas, limit, burst, offered, load, arguments.seconds)
        excess, granted = simulation.run()
        requests = max(1, len(simulation.arrivals))
        possible = max(1, simulation.ideal())
        operations = simulation.operations / arguments.seconds
        print(f"| {replicas} | {load} | {limit:,} | ×{times} | {max(0, excess):.2f} | {granted / possible:.3f} | {operations:.0f} | {simulation.operations / requests:.3f} |", flush=True)
    micros = server.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]
    print(f"\nOne script takes {micros:.1f} µs of Redis.")


if __name__ == "__main__":
    main()
