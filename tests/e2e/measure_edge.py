"""Certificates of 90 seconds that are renewed five times under load by both challenges, 50 kills of an order, and
200,000 altered PROXY headers on connections of their own."""

import concurrent.futures
import random

from authority import Pebble
from balancer import sent_headers
from edge import killed_again_and_again, renewals_under_load
from redis_server import server_port

RENEWALS, LIFE, KILLS, HEADERS = 5, 90, 50, 200_000


def renewed(challenge):
    with Pebble(life=LIFE, tls_port=server_port(), http_port=server_port()) as pebble:
        load, status = renewals_under_load(pebble, challenge, RENEWALS)
        times = sorted(load.served.values())
        apart = [f"{later - earlier:.1f}" for earlier, later in zip(times, times[1:])]
        return (
            f"{challenge}: {load.count} handshakes by 64 clients, {len(load.failures)} failed {load.failures[:3]}; "
            f"{len(load.served) - 1} renewals, {', '.join(apart)} s apart; orders: {pebble.orders()}, "
            f"failed attempts: {status['failed']}"
        )


def main():
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for line in pool.map(renewed, ["tls-alpn-01", "http-01"]):
            print(line, flush=True)
    with Pebble(tls_port=server_port()) as pebble:
        moments = [random.uniform(0.0, 1.2) for _ in range(KILLS)]
        orders, certificates = killed_again_and_again(pebble, moments)
        print(f"{KILLS} kills: {sum(orders)} orders in {len(orders)} starts, at most {max(orders)} of one; {certificates}")
    granted, lines = sent_headers(HEADERS)
    panics = sum("panic" in line for line in lines)
    print(f"{HEADERS} altered PROXY headers: {len(granted)} sound ones of the allowed client, {panics} panics")


if __name__ == "__main__":
    main()
