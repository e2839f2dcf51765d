"""One run from videos to outputs."""

from boards.kit import RATE, Board, Panel, Row, gauge, ours, rate, rays

_NODES = f"sum({rays('ray_cluster_active_nodes')})"
_NODE_HOURS = f"sum(sum_over_time({rays('ray_cluster_active_nodes')}[$__range:1m])) / 60"
_RUNNING = gauge("stage_running", "run, stage")
_TODO = f"({gauge('stage_items', 'run, stage')} - {gauge('stage_items_done', 'run, stage')})"
_SPEED = f"max by (run, stage) (deriv({ours('stage_items_done')}[10m]))"
_OUTPUTS = ours("requests", 'outcome="ok"')
_ALL = f"sum by (run, stage) ({ours('items')})"
_NOT_OK = 'outcome!="ok"'
LOST = f"(sum by (run, stage) ({ours('items', _NOT_OK)}) or 0 * {_ALL}) / {_ALL}"

_RUN = [
    Panel(
        "Stages",
        "bool_yes_no",
        "Which stages run now. Good: the one you expect. A stage that has ended shows no, and disappears "
        "when its job ends; a killed job disappears at once.",
        {"{{stage}} of {{run}}": _RUNNING},
        kind="number",
    ),
    Panel(
        "Done",
        "percentunit",
        "Fraction of each stage's items that is done; training counts steps. Good: it grows. Bad: it "
        "stands still while the stage runs.",
        {
            "{{stage}} of {{run}}": f"{gauge('stage_items_done', 'run, stage')}"
            f" / {gauge('stage_items', 'run, stage')}"
        },
        kind="bars",
        top=1,
    ),
    Panel(
        "Time left",
        "dtdurations",
        "Remaining time of the running stages at the speed of the last ten minutes. Bad: it grows. "
        "Empty while nothing progresses.",
        {"{{stage}} of {{run}}": f"{_TODO} / ({_SPEED} > 0) and on (run, stage) {_RUNNING} == 1"},
        kind="number",
    ),
    Panel(
        "Items a second",
        "suffix: /s",
        "Videos probed, clips decoded, samples encoded. Good: steady. Bad: it falls while nodes "
        "are alive; see the data dashboard.",
        {"{{stage}} of {{run}}": rate("items", "run, stage")},
    ),
    Panel(
        "Items lost",
        "percentunit",
        "Fraction of items that a stage could not use. Good: below 5 %. Bad: much more; the data "
        "dashboard shows the reasons, and the run's tables the reason of each item.",
        {"{{stage}} of {{run}}": LOST},
    ),
    Panel(
        "Loss",
        "short",
        "Training loss and held-out loss. Good: both fall. Bad: it jumps, or the held-out loss "
        "turns upwards.",
        {
            "training, {{run}}": gauge("train_loss"),
            "held out, {{run}}": gauge("train_val_loss"),
        },
    ),
    Panel(
        "Training speed",
        "suffix: tokens/s",
        "Patches trained on per second. Good: steady. Bad: it falls; the training dashboard shows "
        "whether ranks wait for data or for each other.",
        {"{{run}}": gauge("train_tokens_per_s")},
    ),
    Panel(
        "Outputs an hour",
        "short",
        "Videos and images generated. Good: steady until the batch ends.",
        {"{{run}}": f"3600 * sum by (run) (rate({_OUTPUTS}{RATE}))"},
    ),
    Panel(
        "Requests failed",
        "short",
        "Requests without an output so far, by reason. Bad: generation_failed; the other reasons are "
        "faults of the request.",
        {"{{outcome}}": f"sum by (outcome) ({ours('requests', _NOT_OK)})"},
    ),
]

_CLUSTER = [
    Panel(
        "Nodes",
        "short",
        "Live nodes, by kind. Good: as many as the stages ask for, and fewer after them. "
        "Bad: they stay when nothing runs.",
        {
            "{{node_type}}": f"sum by (node_type) ({rays('ray_cluster_active_nodes')})",
        },
        width=12,
        number=24,  # Ray's overview page shows this panel under its own heading of the same name
    ),
    Panel(
        "Cluster utilization",
        "percent",
        "How busy the nodes are. Good: paid hardware is busy: GPUs in training, CPUs in clips "
        "and encode. Bad: memory or disk above 90.",
        {
            "CPU": f"avg({rays('ray_node_cpu_utilization')})",
            "GPU": f"avg({rays('ray_node_gpus_utilization')})",
            "memory": f"100 * sum({rays('ray_node_mem_used')}) / sum({rays('ray_node_mem_total')})",
            "disk": f"max({rays('ray_node_disk_utilization_percentage')})",
            "object store": f"100 * sum({rays('ray_object_store_used_memory')}) / "
            f"(sum({rays('ray_object_store_used_memory')}) + "
            f"sum({rays('ray_object_store_available_memory')}))",
        },
        width=12,
        top=100,
        number=41,  # as above
    ),
]

_COST = [
    Panel(
        "Cost an hour",
        "currencyUSD",
        "Live nodes, times the price. Bad: it stays up when no stage runs.",
        {"now": f"{_NODES} * $price_node_hour"},
        kind="number",
    ),
    Panel(
        "Cost in the time shown",
        "currencyUSD",
        "Node hours of the cluster in the time shown, times the price: everything that ran on it, and "
        "its idle time. Good: it grows only while stages run. Select the time of the run above.",
        {"all nodes": f"{_NODE_HOURS} * $price_node_hour"},
        kind="number",
    ),
    Panel(
        "Cost of an output in the time shown",
        "currencyUSD",
        "That cost divided by the outputs of the same time. Good: near the model's own cost, which is on "
        "the generation dashboard. Bad: far above it: nodes are idle. Select the time of the batch.",
        {"each": f"{_NODE_HOURS} * $price_node_hour / (sum(increase({_OUTPUTS}[$__range])) > 0)"},
        kind="number",
    ),
]

BOARD = Board(
    uid="vitascope-overview",
    title="Vitascope: overview",
    description="One run from videos to outputs: running stages, speed, time left, cost.",
    variables={"price_node_hour": ("1.0", "Price of a node hour")},
    rows=[
        Row("The run", _RUN),
        Row("The cluster", _CLUSTER),
        Row("Cost, at the price above for every node", _COST),
    ],
)
