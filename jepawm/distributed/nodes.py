"""Which nodes of the cluster are gone. Ray itself takes about 14 s to say so, and places actors there until then."""

import socket
from typing import Any

import ray

# A node that does not take a connection within this time counts as gone, seconds.
CONNECT_TIMEOUT_S = 2.0
# How long a connection may stay open without a greeting before its node counts as alive all the same, seconds.
GREETING_TIMEOUT_S = 10.0


class LostNodes:
    """Finds nodes that are gone and remembers them; a node that is gone comes back under another id only."""

    def __init__(self) -> None:
        self._lost: set[str] = set()

    def took(self, node_id: str | None) -> bool:
        """Whether the loss of a node explains the death of an actor.

        Args:
            node_id: The actor's node; None: the actor died before it said where it runs, and any node that was found
                gone just now explains its death.
        """
        nodes = {node["NodeID"]: node for node in ray.nodes()}
        asked = [node_id] if node_id is not None else [known for known in nodes if known not in self._lost]
        gone = {known for known in asked if known not in nodes or is_gone(nodes[known])}
        self._lost |= gone
        return bool(gone)

    def selector(self) -> dict[str, str]:
        """Labels of the nodes that are left; empty where none is lost."""
        if not self._lost:
            return {}
        return {"ray.io/node-id": f"!in({','.join(sorted(self._lost))})"}


def is_gone(node: dict[str, Any]) -> bool:
    """Whether a node of `ray.nodes()` is dead, or its raylet does not answer a connection.

    A raylet that lives greets whoever connects, at once. One that is being killed may still be connected to until the
    system has ended it; then the connection closes without a greeting.
    """
    if not node["Alive"]:
        return True
    try:
        address = node["NodeManagerAddress"], node["NodeManagerPort"]
        with socket.create_connection(address, CONNECT_TIMEOUT_S) as connection:
            connection.settimeout(GREETING_TIMEOUT_S)
            try:
                return not connection.recv(1)
            except TimeoutError:
                # It has too much to do, or waits for the first word, as it does under TLS.
                return False
    except OSError:
        return True
