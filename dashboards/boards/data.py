"""Clips, encoding and the feed."""

from boards.kit import Board, Panel, Row, gauge, ours, rate, rays
from boards.overview import LOST


def _by_operator(name: str) -> str:
    return f"sum by (operator) ({rays(name)})"


_ITEMS = [
    Panel(
        "Items a second",
        "suffix: /s",
        "Videos probed, clips decoded, samples encoded. Good: it grows with the nodes. Bad: it does "
        "not; look below for the operator that is busy while the next one waits.",
        {"{{stage}} of {{run}}": rate("items", "run, stage")},
    ),
    Panel(
        "Items done",
        "short",
        "Finished items of each stage, and its total. Good: the two meet.",
        {
            "{{stage}} done": gauge("stage_items_done", "run, stage", 'stage!="train"'),
            "{{stage}} to do": gauge("stage_items", "run, stage", 'stage!="train"'),
        },
    ),
    Panel(
        "Items by outcome",
        "short",
        "Good: almost all ok. The other names are the ledger's reasons; the tables of the run have "
        "the reason of each item.",
        {"{{stage}}: {{outcome}}": f"sum by (stage, outcome) ({ours('items')})"},
        kind="bars",
    ),
    Panel(
        "Items lost",
        "percentunit",
        "Fraction of items that a stage could not use. Good: below 5 %. Bad: it rises while a stage "
        "runs: storage that refuses, or a folder of broken files.",
        {"{{stage}} of {{run}}": LOST},
    ),
]

_OPERATORS = [
    Panel(
        "Rows put out",
        "short",
        "Rows that each operator has passed to the next. Good: all lines rise together.",
        {"{{operator}}": _by_operator("ray_data_output_rows")},
    ),
    Panel(
        "Blocks that wait",
        "short",
        "Blocks in front of each operator. Bad: a queue that grows names the operator that is too slow.",
        {"{{operator}}": _by_operator("ray_data_operator_queued_blocks")},
    ),
    Panel(
        "Tasks",
        "short",
        "Running tasks. Good: the slow operator has as many as the cluster's CPUs allow.",
        {"{{operator}}": _by_operator("ray_data_num_tasks_running")},
    ),
    Panel(
        "CPUs in use",
        "short",
        "CPUs that each operator holds. Bad: none while blocks wait.",
        {"{{operator}}": _by_operator("ray_data_cpu_usage_cores")},
    ),
    Panel(
        "Held back",
        "s",
        "Time in which tasks were not started, or their output not taken, to save memory. Good: "
        "little. Bad: steep: the following operator is too slow, or the object store too small.",
        {
            "start of {{operator}}": _by_operator("ray_data_task_submission_backpressure_time"),
            "output of {{operator}}": _by_operator("ray_data_task_output_backpressure_time"),
        },
    ),
    Panel(
        "Memory in the object store",
        "bytes",
        "Bytes of each operator there. Bad: near the store's size; then Ray writes them to disk.",
        {"{{operator}}": _by_operator("ray_data_current_bytes")},
    ),
    Panel(
        "Written to disk",
        "bytes",
        "Bytes that did not fit into the object store. Good: none.",
        {"{{operator}}": _by_operator("ray_data_spilled_bytes")},
    ),
    Panel(
        "Tasks failed",
        "short",
        "Tasks that raised or whose worker died; Ray retries them. Good: none. Bad: it rises; "
        "look at the workers' logs, and at memory on the cluster dashboard.",
        {"{{operator}}": _by_operator("ray_data_num_tasks_failed")},
    ),
]

_FEED = [
    Panel(
        "Waiting for packs",
        "percentunit",
        "Fraction of a step's time that ranks spend waiting for packs. Good: below 5 %. Bad: above "
        "20 %: raise feed.prefetch_packs, or give the feed more CPUs.",
        {"{{run}}": gauge("train_data_wait_share")},
    ),
    Panel(
        "Useful tokens",
        "percentunit",
        "Real tokens divided by tokens computed. Good: above 98 %. Bad: less: few samples a pack; raise "
        "feed.token_budget.",
        {"{{run}}": gauge("train_useful_token_share")},
    ),
    Panel(
        "Cost spread",
        "percentunit",
        "How much longer the costliest rank of a step computes than the mean. Good: below 5 %. "
        "Bad: above 20 %: use fewer feed.packs_per_step, or train.ranks that divide them; see the output "
        "of train.",
        {"{{run}}": gauge("train_cost_spread")},
    ),
]

BOARD = Board(
    uid="vitascope-data",
    title="Vitascope: data",
    description="Clips, encoding and the feed of training: losses, slow operators, queues.",
    rows=[
        Row("Items", _ITEMS),
        Row("Ray Data, by operator", _OPERATORS),
        Row("The feed of training", _FEED),
    ],
)
