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
        "not; look for the operator below that is busy while the next one waits.",
        {"{{stage}} of {{run}}": rate("items", "run, stage")},
    ),
    Panel(
        "Items done",
        "short",
        "What each stage has done, and what it has to do. Good: the two meet.",
        {
            "{{stage}} done": gauge("stage_items_done", "run, stage", 'stage!="train"'),
            "{{stage}} to do": gauge("stage_items", "run, stage", 'stage!="train"'),
        },
    ),
    Panel(
        "What became of items",
        "short",
        "Items by outcome. Good: almost all ok. The other names are the ledger's reasons; the "
        "tables of the run say which item and why.",
        {"{{stage}}: {{outcome}}": f"sum by (stage, outcome) ({ours('items')})"},
        kind="bars",
    ),
    Panel(
        "Items lost",
        "percentunit",
        "Share of items that a stage could not use. Good: below 5 %. Bad: it climbs while a stage "
        "runs: storage that refuses, or a folder of broken files.",
        {"{{stage}} of {{run}}": LOST},
    ),
]

_OPERATORS = [
    Panel(
        "Rows put out",
        "short",
        "Rows that each operator has given to the next. Good: all lines climb together.",
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
        "Tasks that run now. Good: the slow operator has as many as the cluster has CPUs for.",
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
        "Time in which tasks were not started, or their output not taken, to spare memory. Good: "
        "little. Bad: steep: what comes after is too slow, or the object store too small.",
        {
            "start of {{operator}}": _by_operator("ray_data_task_submission_backpressure_time"),
            "output of {{operator}}": _by_operator("ray_data_task_output_backpressure_time"),
        },
    ),
    Panel(
        "Memory in the object store",
        "bytes",
        "What each operator has there. Bad: near the store's size; then Ray writes it to disk.",
        {"{{operator}}": _by_operator("ray_data_current_bytes")},
    ),
    Panel(
        "Written to disk",
        "bytes",
        "What the object store had no room for. Good: nothing.",
        {"{{operator}}": _by_operator("ray_data_spilled_bytes")},
    ),
    Panel(
        "Tasks failed",
        "short",
        "Tasks that raised or whose worker died; Ray tries them again. Good: none. Bad: it climbs; "
        "look at the workers' logs, and at memory on the cluster dashboard.",
        {"{{operator}}": _by_operator("ray_data_num_tasks_failed")},
    ),
]

_FEED = [
    Panel(
        "Waiting for packs",
        "percentunit",
        "Share of a step's time that ranks spend waiting for packs. Good: below 5 %. Bad: above "
        "20 %: raise feed.prefetch_packs, or give the feed more CPUs.",
        {"{{run}}": gauge("train_data_wait_share")},
    ),
    Panel(
        "Useful share",
        "percentunit",
        "Real tokens over tokens computed. Good: above 98 %. Bad: less: few samples a pack; raise "
        "feed.token_budget.",
        {"{{run}}": gauge("train_useful_token_share")},
    ),
    Panel(
        "Cost spread",
        "percentunit",
        "How much longer the costliest rank of a step computes than the mean. Good: below 5 %. "
        "Bad: above 20 %: use fewer feed.packs_per_step, or train.ranks that divide them; see what train "
        "prints.",
        {"{{run}}": gauge("train_cost_spread")},
    ),
]

BOARD = Board(
    uid="vitascope-data",
    title="Vitascope: data",
    description="Clips, encoding and the feed of training: what is lost, what is slow, what waits.",
    rows=[
        Row("Items", _ITEMS),
        Row("Ray Data, by operator", _OPERATORS),
        Row("The feed of training", _FEED),
    ],
)
