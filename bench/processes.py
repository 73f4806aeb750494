"""Processes under measurement: start, CPU time, memory, end."""

import os
import pathlib
import signal
import socket
import subprocess
import time


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise SystemExit(f"timed out: {condition}")
        time.sleep(0.01)


def is_listening(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


class Process:
    """A program and its child processes, bound to `cores`."""

    def __init__(self, command, cores, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, environment=None):
        cores = ",".join(map(str, cores))
        environment = os.environ | (environment or {})
        command = ["taskset", "-c", cores, *command]
        self.child = subprocess.Popen(command, stdout=stdout, stderr=stderr, start_new_session=True, env=environment)
        self.pid = self.child.pid

    def tree(self):
        """The ids of the process and its descendants."""
        found, todo = [], [self.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
                todo.extend(int(child) for child in children.read_text().split())
        return found

    def cpu_seconds(self):
        """CPU time of all threads of the tree, from the scheduler's nanoseconds."""
        nanos = 0
        for pid in self.tree():
            for schedstat in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
                nanos += int(schedstat.read_text().split()[0])
        return nanos / 1e9

    def pss_kib(self):
        """Proportional set size (PSS) of the tree, in KiB."""
        rollups = (pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.tree())
        fields = (line.split() for rollup in rollups for line in rollup.splitlines())
        return sum(int(field[1]) for field in fields if field[0] == "Pss:")

    def end(self):
        if self.child.poll() is None:
            os.killpg(self.pid, signal.SIGTERM)
            try:
                self.child.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self.child.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()
