"""Nodes, GPUs, memory, object store, disks."""

from boards.kit import RATE, Board, Panel, Row, rays

_STORE = f"({rays('ray_object_store_used_memory')} + {rays('ray_object_store_available_memory')})"
_GRAM = f"({rays('ray_node_gram_used')} + {rays('ray_node_gram_available')})"
_SPILLED = 'Location="SPILLED"'
_PENDING, _WAITING = 'State="PENDING"', 'Reason=~"WaitingForResources|Infeasible"'
_GPUS, _GPUS_HELD = 'Name="GPU"', 'Name="GPU",State="USED"'


def _by_node(name: str) -> str:
    return f"max by (ip) ({rays(name)})"


_NODES = [
    Panel(
        "Nodes alive",
        "short",
        "Live nodes, by kind. Good: as many as the stages need, removed after them.",
        {"{{node_type}}": f"sum by (node_type) ({rays('ray_cluster_active_nodes')})"},
    ),
    Panel(
        "Nodes to come",
        "short",
        "Nodes that the autoscaler has requested, and failed launches. Good: for minutes. Bad: "
        "for long, or failures: quota, capacity, or a mistake in the cluster's file.",
        {
            "{{NodeType}} to come": f"sum by (NodeType) ({rays('autoscaler_pending_nodes')})",
            "launches failed": f"sum({rays('autoscaler_failed_create_nodes_total')})",
            "exceptions": f"sum({rays('autoscaler_node_launch_exceptions_total')})",
        },
    ),
    Panel(
        "Nodes gone",
        "short",
        "Nodes that have died or left since the cluster started, and those that the autoscaler "
        "stopped. Good: they grow together. Bad: only the first grows: spot nodes preempted, or "
        "machines that fail.",
        {
            "gone": f"sum({rays('ray_node_failure_total')})",
            "stopped": f"sum({rays('autoscaler_stopped_nodes_total')})",
        },
    ),
    Panel(
        "Work that waits for room",
        "short",
        "Placement groups and tasks that no node has room for. Good: for minutes. Bad: for long: "
        "no kind of node fits them, or the limits are reached.",
        {
            "placement groups": f"sum({rays('ray_placement_groups', _PENDING)})",
            "tasks": f"sum({rays('ray_scheduler_unscheduleable_tasks', _WAITING)})",
        },
    ),
    Panel(
        "CPUs",
        "percent",
        "How busy each node's CPUs are. Good: high in clips and encode.",
        {"{{ip}}": _by_node("ray_node_cpu_utilization")},
        top=100,
    ),
    Panel(
        "Memory",
        "percentunit",
        "Memory in use. Bad: above 90 %: Ray kills workers at 95 %.",
        {"{{ip}}": f"{_by_node('ray_node_mem_used')} / {_by_node('ray_node_mem_total')}"},
        top=1,
    ),
    Panel(
        "Workers killed or lost",
        "short",
        "Workers that ended unexpectedly, and those killed for memory, on live nodes. Good: none.",
        {
            "lost, {{Type}}": f"sum by (Type) ({rays('ray_node_manager_unexpected_worker_failure_total')})",
            "for memory": f"sum({rays('ray_memory_manager_worker_eviction_total')})",
        },
    ),
    Panel(
        "Network",
        "Bps",
        "Received and sent by each node. Bad: at the limit of the machine while training waits.",
        {
            "{{ip}} received": f"sum by (ip) (rate({rays('ray_node_network_received')}{RATE}))",
            "{{ip}} sent": f"sum by (ip) (rate({rays('ray_node_network_sent')}{RATE}))",
        },
    ),
]

_ON_GPUS = [
    Panel(
        "GPUs in use",
        "percent",
        "How busy each GPU is. Good: above 90 in training and generation. Bad: idle and paid for.",
        {"{{ip}} {{GpuIndex}}": f"max by (ip, GpuIndex) ({rays('ray_node_gpus_utilization')})"},
        top=100,
    ),
    Panel(
        "GPU memory",
        "percentunit",
        "Memory in use of each GPU. Good: 60 to 90 %. Bad: above 95 %: the next long sample may not "
        "fit; lower feed.token_budget.",
        {
            "{{ip}} {{GpuIndex}}": f"max by (ip, GpuIndex) ({rays('ray_node_gram_used')} / {_GRAM})",
        },
        top=1,
    ),
    Panel(
        "GPUs held",
        "short",
        "GPUs that tasks and actors hold, and all GPUs. Bad: held and not in use.",
        {
            "held": f"sum({rays('ray_resources', _GPUS_HELD)})",
            "all": f"sum({rays('ray_resources', _GPUS)})",
        },
    ),
]

_STORES = [
    Panel(
        "Object store",
        "percentunit",
        "How full each node's store is. Good: below 80 %. Bad: full: Ray writes objects to disk, "
        "and their producers wait.",
        {"{{instance}}": f"max by (instance) ({rays('ray_object_store_used_memory')} / {_STORE})"},
        top=1,
    ),
    Panel(
        "Objects on disk",
        "bytes",
        "Bytes that did not fit into the stores. Good: none. Bad: it grows.",
        {"{{instance}}": f"sum by (instance) ({rays('ray_object_store_memory', _SPILLED)})"},
    ),
    Panel(
        "Objects written to and read from disk",
        "short",
        "Objects since the cluster started. Good: level.",
        {"{{Type}}": f"sum by (Type) ({rays('ray_spill_manager_request_total')})"},
    ),
    Panel(
        "Disks",
        "percent",
        "How full each node's disk is. Bad: above 90: at 95 Ray accepts no more objects.",
        {"{{ip}}": _by_node("ray_node_disk_utilization_percentage")},
        top=100,
    ),
    Panel(
        "Disk traffic",
        "Bps",
        "Read and written by each node. Bad: high without spilling or decoding to explain it.",
        {
            "{{ip}} read": _by_node("ray_node_disk_io_read_speed"),
            "{{ip}} written": _by_node("ray_node_disk_io_write_speed"),
        },
    ),
]

BOARD = Board(
    uid="vitascope-cluster",
    title="Vitascope: cluster",
    description="The nodes of all stages: live and lost ones, and what is full.",
    of_runs=False,
    rows=[
        Row("Nodes", _NODES),
        Row("GPUs", _ON_GPUS),
        Row("Object store and disks", _STORES),
    ],
)
