"""Galera: of three nodes one is killed in the middle of a load, then another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.galera import Cluster, Node
from support.relays import Mail, Relay, check_whole, wait_for

# `make test` takes a sample; MANY=100000 is the size that was promised.
RECORDS = int(os.environ.get("MANY", "3000"))


def stored(node: Node, name: str) -> int:
    """Records that were loaded."""
    if node.ask("SHOW TABLES LIKE 'segment'", name) is None:
        return 0
    return int(node.ask("SELECT coalesce(sum(records), 0) FROM segment", name))


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_two_of_three_nodes_are_killed(tmp_path: Path) -> None:
    """Two relays go on with the next node of their list, and then with the last.

    After the second death the last node is one of two and does not know whether the other lives:
    it stops, and the writers wait, until somebody who knows tells it to go on.  Then the first
    comes back and joins.
    """
    with Cluster() as cluster:
        name = cluster.nodes[0].create_database()
        first_node, second_node, last_node = cluster.nodes
        url = cluster.url(name)
        with (
            Relay("mx1.example.com", tmp_path / "mx1", url) as first,
            Relay("mx2.example.com", tmp_path / "mx2", url) as second,
        ):
            relays = (first, second)
            with Mail(relays, RECORDS):
                wait_for(lambda: stored(first_node, name) >= RECORDS * 0.3, "the first part")
                first_node.kill()
                wait_for(lambda: stored(second_node, name) >= RECORDS * 0.6, "the second part")
                second_node.kill()
            wait_for(lambda: last_node.status("wsrep_ready") == "OFF", "the last node stops")
            for relay in relays:
                relay.seal(100)  # who has loaded all by now would not notice
            wait_for(lambda: all(waits_for_cluster(relay) for relay in relays), "writers wait")
            last_node.set_option("pc.bootstrap=YES")
            wait_for(lambda: first.is_done and second.is_done, "the rest")
            cluster.start(first_node)
        check_whole(relays, last_node.url(name))
        assert stored(first_node, name) == stored(last_node, name)


def waits_for_cluster(relay: Relay) -> bool:
    """Whether its writer has said why it waits."""
    return any(
        "has left its Galera cluster" in one["problem"] for one in relay.said("database-waits")
    )


@pytest.mark.chaos
@pytest.mark.skipif("MANY" not in os.environ, reason="the sample has one failover of each kind")
@pytest.mark.timeout(3600)
def test_weights_let_the_last_node_go_on_alone(tmp_path: Path) -> None:
    """With weights 2, 2, 3 the last node outvotes the dead, one after the other."""
    with Cluster((2, 2, 3)) as cluster:
        name = cluster.nodes[0].create_database()
        first_node, second_node, last_node = cluster.nodes
        url = cluster.url(name)
        with (
            Relay("mx1.example.com", tmp_path / "mx1", url) as first,
            Relay("mx2.example.com", tmp_path / "mx2", url) as second,
        ):
            with Mail([first, second], RECORDS):
                wait_for(lambda: stored(first_node, name) >= RECORDS * 0.3, "the first part")
                first_node.kill()
                wait_for(lambda: stored(second_node, name) >= RECORDS * 0.6, "the second part")
                second_node.kill()
            wait_for(lambda: first.is_done and second.is_done, "the rest")
        check_whole([first, second], last_node.url(name))


@pytest.mark.chaos
@pytest.mark.skipif("MANY" not in os.environ, reason="the sample has one failover of each kind")
@pytest.mark.timeout(3600)
def test_relays_that_write_to_different_nodes(tmp_path: Path) -> None:
    """Not advised, since commits then collide; but nothing is lost or doubled by it."""
    with Cluster() as cluster:
        name = cluster.nodes[0].create_database()
        with (
            Relay("mx1.example.com", tmp_path / "mx1", cluster.nodes[0].url(name)) as first,
            Relay("mx2.example.com", tmp_path / "mx2", cluster.nodes[1].url(name)) as second,
        ):
            with Mail([first, second], RECORDS):
                pass
            wait_for(lambda: first.is_done and second.is_done, "all")
        check_whole([first, second], cluster.nodes[2].url(name))
