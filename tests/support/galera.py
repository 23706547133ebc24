"""A private Galera cluster: MariaDB nodes on loopback that are one database.

Promises: `Cluster(3)` starts nodes one after the other, each synchronised when it counts as
started.  A node can be killed and started again.  Dead nodes are noticed after a second.

Needs the Debian packages galera-4 and rsync.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import URL

from support import ports
from support.mariadb import MariaDB
from support.private_server import OWNER, ServerMissing

_PROVIDERS = ("/usr/lib/galera/libgalera_smm.so", "/usr/lib64/galera-4/libgalera_smm.so")
# Galera's own times, divided by two and a half.
_TIMES = {
    "evs.keepalive_period": "PT0.4S",
    "evs.inactive_check_period": "PT0.2S",
    "evs.suspect_timeout": "PT2S",
    "evs.inactive_timeout": "PT6S",
    "evs.install_timeout": "PT3S",
}
_GROUP = {"pc.recovery": "FALSE", "gcache.size": "64M", **_TIMES}


class Node(MariaDB):
    """One of the cluster; `weight` is its voice when it is asked who is left."""

    def __init__(self, name: str, weight: int) -> None:
        super().__init__()
        self.name = name
        self.group_port, copy_port, catch_up_port = (ports.free_port() for _ in range(3))
        options = {
            "gmcast.listen_addr": f"tcp://{ports.LOOPBACK}:{self.group_port}",
            "ist.recv_addr": f"{ports.LOOPBACK}:{catch_up_port}",
            "pc.weight": str(weight),
            **_GROUP,
        }
        self.settings |= {
            "wsrep-on": "ON",
            "wsrep-provider": _provider(),
            "wsrep-provider-options": "; ".join(f"{k}={v}" for k, v in options.items()),
            "wsrep-cluster-name": "carbonseal",
            "wsrep-node-name": name,
            "wsrep-node-address": f"{ports.LOOPBACK}:{self.group_port}",
            "wsrep-sst-method": "rsync",
            "wsrep-sst-receive-address": f"{ports.LOOPBACK}:{copy_port}",
            "wsrep-slave-threads": "2",
            "innodb-fast-shutdown": "1",
            "binlog-format": "ROW",
            "innodb-autoinc-lock-mode": "2",
        }

    def become_copy_of(self, other: Node) -> None:
        """Begin where a node was stopped: it then joins without a state transfer of 10 seconds."""
        self.password = other.password  # users are the cluster's
        self.run(["cp", "-R", other.data, other.users, self.directory])
        self.users = self.directory / other.users.name

    @property
    def members(self) -> int:
        """Nodes that this one sees in its part of the cluster."""
        return int(self.status("wsrep_cluster_size"))

    def status(self, name: str) -> str:
        """One of the wsrep variables of SHOW STATUS."""
        return str(self.ask(f"SHOW GLOBAL STATUS LIKE '{name}'"))

    def set_option(self, option: str) -> None:
        """Change a provider option while it runs."""
        self.execute(f"SET GLOBAL wsrep_provider_options = '{option}'")

    def _answers(self) -> bool:
        return super()._answers() and self.status("wsrep_local_state_comment") == "Synced"


class Cluster:
    """Nodes of these weights, all running."""

    def __init__(self, weights: Sequence[int] = (1, 1, 1)) -> None:
        self._weights = weights
        self.nodes: list[Node] = []

    def __enter__(self) -> Self:
        try:
            for number, weight in enumerate(self._weights, 1):
                self.nodes.append(Node(f"node{number}", weight))
            first, *others = self.nodes
            first.initialise()
            self.start(first, is_first=True)
            first.stop()
            for node in others:
                node.become_copy_of(first)
            self.start(first, is_first=True)
            for node in others:
                self.start(node)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self, node: Node, *, is_first: bool = False) -> None:
        """Let a node join; the first one begins the cluster."""
        addresses = ",".join(f"{ports.LOOPBACK}:{one.group_port}" for one in self.nodes)
        more = ["--wsrep-new-cluster"] if is_first else []
        node.start(f"--wsrep-cluster-address=gcomm://{addresses}", *more)

    def close(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            with contextlib.suppress(OSError):
                node.close()

    def url(self, database: str) -> str:
        """For SQLAlchemy, with all nodes, in order."""
        made = URL.create(
            "mysql+pymysql",
            username=OWNER,
            password=self.nodes[0].password,
            database=database,
            query={"host": tuple(f"{ports.LOOPBACK}:{node.port}" for node in self.nodes)},
        )
        return made.render_as_string(hide_password=False)


def _provider() -> str:
    for place in _PROVIDERS:
        if Path(place).exists():
            return place
    raise ServerMissing("libgalera_smm.so is missing; apt-get install galera-4")
