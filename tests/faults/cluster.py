"""Three nodes of Apache Kafka, each of which can be killed, stopped and started again."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from apache_kafka import (
    START_LIMIT_S,
    fill,
    format_storage,
    new_cluster_id,
    start_node,
)
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from network import HOST, Network
from schedule import NODES

from headrace.streams.child import Child
from headrace.streams.kafka.broker import free_ports

PROBE_S = 0.2


@dataclass(slots=True)
class Node:
    """One broker: how tools reach it, how workers do, and its process while it runs."""

    properties: Path
    direct: int
    proxied: int
    is_wanted: bool = True
    is_ending: bool = False  # asked to, and it answers meanwhile
    child: Child | None = None

    def tend(self) -> None:
        """Start it if it is wanted and not running; returns before it answers."""
        if self.child is not None and self.child.poll() is not None:
            self.child.stop(limit_s=0)  # it has ended: frees its log and its pipe
            self.child, self.is_ending = None, False
        if self.is_wanted and self.child is None:
            self.child = start_node(self.properties)


class Cluster:
    """The nodes by name. ``bootstrap`` leads tools straight to them, ``proxied`` is for workers."""

    def __init__(self, folder: Path, network: Network) -> None:
        cluster_id = new_cluster_id()
        ports = iter(free_ports(3 * len(NODES)))
        controllers = {name: next(ports) for name in NODES}
        voters = ",".join(
            f"{number}@{HOST}:{port}" for number, port in enumerate(controllers.values(), 1)
        )
        self.nodes: dict[str, Node] = {}
        for number, name in enumerate(NODES, 1):
            behind = next(ports)
            node = Node(folder / f"{name}.properties", next(ports), network.forward(behind))
            fill(
                node.properties,
                "one_of_three.properties",
                node=number,
                voters=voters,
                direct=node.direct,
                behind=behind,
                proxied=node.proxied,
                controller=controllers[name],
                data=folder / name,
            )
            format_storage(node.properties, cluster_id)
            self.nodes[name] = node

    def __enter__(self) -> Self:
        self.mend()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name, node in self.nodes.items():
            if node.child is not None:
                if exc is not None:
                    print(f"--- {name}\n{node.child.log_tail()}")
                node.child.stop(limit_s=0)

    @property
    def bootstrap(self) -> str:
        """The addresses for tools."""
        return ",".join(f"{HOST}:{node.direct}" for node in self.nodes.values())

    @property
    def proxied(self) -> str:
        """The addresses for workers."""
        return ",".join(f"{HOST}:{node.proxied}" for node in self.nodes.values())

    def kill(self, name: str) -> None:
        """End a node as a power failure would, until it is wanted again."""
        node = self.nodes[name]
        node.is_wanted = False
        if node.child is not None:
            os.kill(node.child.pid, signal.SIGKILL)

    def ask_to_end(self, name: str) -> None:
        """Let a node hand its leaderships over and end, until it is wanted again."""
        node = self.nodes[name]
        node.is_wanted = False
        if node.child is not None:
            node.is_ending = True
            node.child.hang_up()

    def want(self, name: str) -> None:
        """Let a node be started once its process has ended."""
        self.nodes[name].is_wanted = True

    def tend(self) -> None:
        """Be the supervisor of the nodes."""
        for node in self.nodes.values():
            node.tend()

    def mend(self) -> None:
        """Want every node, and wait until each of them knows all."""
        for name in self.nodes:
            self.want(name)
        deadline = time.monotonic() + START_LIMIT_S
        while not all(self._is_back(node) for node in self.nodes.values()):
            assert time.monotonic() < deadline, "a broker did not come back"
            self.tend()
            time.sleep(PROBE_S)  # the admin client offers nothing to wait for

    def _is_back(self, node: Node) -> bool:
        """Ask the node itself: the others count one in for some seconds after its end."""
        if node.is_ending:
            return False
        admin = AdminClient({"bootstrap.servers": f"{HOST}:{node.direct}", "log_level": 0})
        try:
            return len(admin.list_topics(timeout=2).brokers) == len(self.nodes)
        except KafkaException:
            return False
