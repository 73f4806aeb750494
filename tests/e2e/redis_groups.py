"""Groups of Redis servers for tests: a Sentinel group and a cluster, whose masters can be killed.

Both take a second or two to form. They only start their processes, so that tests can run meanwhile;
`wait` returns when the group can be used. bearward logs in as an ACL user with least permissions.
"""

import contextlib
import time

from gateway import launch, wait_for
from redis_server import LEAST_ACL, REDIS_7, Closing, Redis, server_port

SLOTS = 16384
SYNCS_AT_ONCE = ("--repl-diskless-sync-delay", "0")

# What the user may do beside LEAST_ACL: bearward asks whether a server is the master; and where the
# slots are, and whether a node answers. From Redis 7.2, each connection to a cluster says its library.
SENTINEL_ACL = "+role"
CLUSTER_ACL = "+cluster|slots +ping"
NEWER_CLUSTER_ACL = f"{CLUSTER_ACL} +client|setinfo"


class Group(Closing):
    """Servers that end together."""

    def __init__(self):
        self.stack = contextlib.ExitStack()
        super().__init__()

    def end(self):
        self.stack.close()


class SentinelGroup(Group):
    """A master `mymaster`, a replica and three sentinels. They forget a master after 500 ms."""

    def __init__(self):
        super().__init__()
        # A replica that does not find its master at once tries again only after a second.
        self.master = self.stack.enter_context(Redis(*SYNCS_AT_ONCE))
        link = ["--replicaof", "127.0.0.1", str(self.master.port), *SYNCS_AT_ONCE]
        self.replica = self.stack.enter_context(Redis(*link, waits=False))
        ports = [server_port() for _ in range(3)]
        self.sentinels = [self.stack.enter_context(Sentinel(self, ports, index)) for index in range(3)]

    def wait(self):
        """Waits until a failover is possible."""
        for server in (self.master, self.replica, *self.sentinels):
            server.wait()
        for server in (self.master, self.replica):
            server.allow(f"{LEAST_ACL} {SENTINEL_ACL}")

        def is_ready():
            is_linked = "master_link_status:up" in self.replica.cli("INFO", "replication")
            states = [sentinel.cli("SENTINEL", "CKQUORUM", "mymaster") for sentinel in self.sentinels]
            replicas = [sentinel.cli("SENTINEL", "REPLICAS", "mymaster") for sentinel in self.sentinels]
            # A sentinel has seen the replica when it knows the replica's link to the master.
            has_seen = all("master-link-status\nok" in known for known in replicas)
            return is_linked and has_seen and all(state.startswith("OK 3") for state in states)

        wait_for("sentinels agree", is_ready)
        return self

    def master_port(self):
        """Port of the master by what the first sentinel says."""
        return int(self.sentinels[0].cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster").split()[1])

    def fail_over(self):
        """Kills the master. Returns the times of its end and of the moment when all sentinels name the new one."""
        killed = time.monotonic()
        self.master.kill()
        want = str(self.replica.port)
        name = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")
        wait_for("the replica is the master", lambda: all(want in sentinel.cli(*name) for sentinel in self.sentinels))
        return killed, time.monotonic()

    def refusals(self):
        return self.master.refusals()

    @property
    def shared(self):
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"'redis+sentinel://bearward@{hosts}/mymaster'{self.master.settings}"


class Sentinel(Redis):
    """A sentinel that knows the others from its start, instead of by their messages each 2 s."""

    def __init__(self, group, ports, index):
        self.group, self.ports, self.index = group, ports, index
        super().__init__(waits=False)

    def prepare(self):
        self.port = self.ports[self.index]
        names = [f"{index:040x}" for index in range(1, 4)]
        lines = [
            f"port {self.port}",
            f"dir {self.path}",
            f"sentinel myid {names[self.index]}",
            f"sentinel monitor mymaster 127.0.0.1 {self.group.master.port} 2",
            "sentinel down-after-milliseconds mymaster 500",
            "sentinel failover-timeout mymaster 2000",
            f"sentinel known-replica mymaster 127.0.0.1 {self.group.replica.port}",
        ]
        others = [index for index in range(3) if index != self.index]
        lines += [f"sentinel known-sentinel mymaster 127.0.0.1 {self.ports[other]} {names[other]}" for other in others]
        (self.path / "sentinel.conf").write_text("\n".join(lines) + "\n")

    def start(self, waits=True):
        with open(self.path / "log", "ab") as log:
            command = [self.program, str(self.path / "sentinel.conf"), "--sentinel"]
            self.process = launch(command, stdout=log, stderr=log)
        if waits:
            self.wait()


class Cluster(Group):
    """Three masters with a replica each. They forget a master after 500 ms."""

    def __init__(self, *options, program=REDIS_7):
        super().__init__()
        self.program = program
        self.nodes = [self.stack.enter_context(Node(*options, program=program)) for _ in range(6)]

    def wait(self):
        """Forms the cluster, and waits until a failover is possible."""
        for node in self.nodes:
            node.wait()
        for node in self.nodes:
            node.allow(f"{LEAST_ACL} {CLUSTER_ACL if self.program == REDIS_7 else NEWER_CLUSTER_ACL}")
        first, masters = self.nodes[0], self.nodes[:3]
        for number, node in enumerate(self.nodes, 1):
            node.cli("CLUSTER", "SET-CONFIG-EPOCH", str(number))
            first.cli("CLUSTER", "MEET", "127.0.0.1", str(node.port), str(node.bus)) if node is not first else None
        for index, master in enumerate(masters):
            ends = [index * SLOTS // 3, (index + 1) * SLOTS // 3 - 1]
            master.cli("CLUSTER", "ADDSLOTSRANGE", *map(str, ends))
            replica = self.nodes[3 + index]
            name = master.cli("CLUSTER", "MYID")
            wait_for("the nodes know each other", lambda: len(replica.cli("CLUSTER", "NODES").splitlines()) == 6)
            replica.cli("CLUSTER", "REPLICATE", name)

        def is_ready():
            states = [node.cli("CLUSTER", "INFO") for node in self.nodes]
            links = [node.cli("INFO", "replication") for node in self.nodes[3:]]
            is_linked = all("master_link_status:up" in link for link in links)
            return is_linked and all("cluster_state:ok" in state and "known_nodes:6" in state for state in states)

        wait_for("the cluster forms", is_ready)
        return self

    def index_of(self, name):
        """Index of the master that has a key, as it was at the beginning."""
        slot = int(self.nodes[0].cli("CLUSTER", "KEYSLOT", name))
        return next(index for index in range(3) if slot < (index + 1) * SLOTS // 3)

    def lose(self, index):
        """Kills a master and its replica. Returns the time."""
        self.nodes[3 + index].kill()
        self.nodes[index].kill()
        return time.monotonic()

    def fail_over(self, index):
        """Kills a master. Returns the times of its end and of the moment when all know its replica as the new one."""
        others = [node for node in self.nodes if node is not self.nodes[index]]
        replica = self.nodes[3 + index]
        killed = time.monotonic()
        self.nodes[index].kill()

        def is_done():
            if "role:master" not in replica.cli("INFO", "replication"):
                return False
            return all("cluster_state:ok" in node.cli("CLUSTER", "INFO") for node in others)

        wait_for("the replica is a master", is_done)
        return killed, time.monotonic()

    def refusals(self):
        return [refusal for node in self.nodes for refusal in node.refusals()]

    def keys(self):
        """The names of all keys."""
        return [name for node in self.nodes[:3] for name in node.cli("KEYS", "*").split()]

    @property
    def shared(self):
        urls = ", ".join(f"'{node.url}'" for node in self.nodes)
        return f"[{urls}]{self.nodes[0].settings}"


class Node(Redis):
    """A node of a cluster."""

    def __init__(self, *options, program):
        self.bus = server_port()
        cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "500"]
        super().__init__(*cluster, *SYNCS_AT_ONCE, *options, program=program, waits=False)

    def listener(self):
        return [*super().listener(), "--cluster-port", str(self.bus)]

    def move(self):
        super().move()
        self.bus = server_port()
