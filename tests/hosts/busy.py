"""Find the worker that does a stage's work. `python -m hosts.busy ADDRESS ACTOR|TASKS`"""

import sys
import time
from collections import Counter

from ray.util.state import list_actors, list_nodes, list_tasks

TASKS = "TASKS"


def busiest(address: str, what: str) -> str | None:
    """The address of the node with most running tasks, or most living actors of a class named like `what`."""
    nodes = {node.node_id: node.node_ip for node in list_nodes(address) if not node.is_head_node}
    if what == TASKS:
        found = list_tasks(
            address, filters=[("state", "=", "RUNNING"), ("type", "=", "NORMAL_TASK")], detail=True
        )
    else:
        found = [
            a
            for a in list_actors(address, filters=[("state", "=", "ALIVE")], detail=True)
            if what in a.class_name
        ]
    busy = Counter(nodes[each.node_id] for each in found if each.node_id in nodes)
    return busy.most_common(1)[0][0] if busy else None


if __name__ == "__main__":
    while not (found := busiest(*sys.argv[1:])):
        time.sleep(0.2)
    print(found)
