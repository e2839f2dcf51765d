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
        "Which stages run now. Good: the one you expect. A stage that has ended says no, and goes "
        "from here when its job ends; a job that was killed goes at once.",
        {"{{stage}} of {{run}}": _RUNNING},
        kind="number",
    ),
    Panel(
        "Done",
        "percentunit",
        "Share of each stage's items that is done; training counts steps. Good: it grows. Bad: it "
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
        "What is left of the running stages at the speed of the last ten minutes. Bad: it grows. "
        "Empty while nothing moves.",
        {"{{stage}} of {{run}}": f"{_TODO} / ({_SPEED} > 0) and on (run, stage) {_RUNNING} == 1"},
        kind="number",
    ),
    Panel(
        "Items a second",
        "suffix: /s",
        "Videos probed, clips decoded, samples encoded. Good: steady. Bad: it falls while nodes "
        "are there; see the data dashboard.",
        {"{{stage}} of {{run}}": rate("items", "run, stage")},
    ),
    Panel(
        "Items lost",
        "percentunit",
        "Share of items that a stage could not use. Good: below 5 %. Bad: much more; the data "
        "dashboard has the reasons, and the run's tables each item's.",
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
        "Patches trained on in a second. Good: steady. Bad: it falls; the training dashboard says "
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
        "Requests without an output so far, and why. Bad: generation_failed; the others say "
        "what is wrong with the request.",
        {"{{outcome}}": f"sum by (outcome) ({ours('requests', _NOT_OK)})"},
    ),
]

_CLUSTER = [
    Panel(
        "Nodes",
        "short",
        "Nodes that are alive, by kind. Good: as many as the stages ask for, and fewer after them. "
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
        "How busy the nodes are. Good: what is paid for is busy: GPUs in training, CPUs in clips "
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
        "Nodes that are alive, times the price. Bad: it stays up when no stage runs.",
        {"now": f"{_NODES} * $price_node_hour"},
        kind="number",
    ),
    Panel(
        "Cost in the time shown",
        "currencyUSD",
        "Node hours of the cluster in the time shown, times the price: all that ran on it, and its "
        "idle time. Good: it grows while stages run, and only then. Choose the time of the run above.",
        {"all nodes": f"{_NODE_HOURS} * $price_node_hour"},
        kind="number",
    ),
    Panel(
        "Cost of an output in the time shown",
        "currencyUSD",
        "That cost over the outputs of the same time. Good: near the model's own share, which is on the "
        "generation dashboard. Bad: far above it: nodes are idle. Choose the time of the batch.",
        {"each": f"{_NODE_HOURS} * $price_node_hour / (sum(increase({_OUTPUTS}[$__range])) > 0)"},
        kind="number",
    ),
]

BOARD = Board(
    uid="vitascope-overview",
    title="Vitascope: overview",
    description="One run from videos to outputs: what runs, how fast, how long still, at what cost.",
    variables={"price_node_hour": ("1.0", "Price of a node hour")},
    rows=[
        Row("The run", _RUN),
        Row("The cluster", _CLUSTER),
        Row("Cost, at the price above for every node", _COST),
    ],
)
