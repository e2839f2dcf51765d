"""Learning, speed and safety of a training run."""

from boards.kit import Board, Panel, Row, gauge, ours, rate, rays

_GIVEN = f"{gauge('train_world_size')} * on () group_left () (vector(1e12 * $peak_tflops) > 0)"
_MFU = f"{gauge('train_flops_per_s')} / on (run) ({gauge('train_peak_flops_per_s')} or on (run) {_GIVEN})"

_LEARNING = [
    Panel(
        "Loss",
        "short",
        "Mean squared error of the velocity. Good: it falls, quickly at first. Bad: it jumps and "
        "stays, or is flat from the start: look at gradient and learning rate.",
        {"{{run}}": gauge("train_loss")},
    ),
    Panel(
        "Held-out loss",
        "short",
        "Loss on samples that are never trained on, always with the same noise. Good: it falls "
        "with the training loss. Bad: it turns upwards while that falls: too many epochs.",
        {"{{run}}": gauge("train_val_loss")},
    ),
    Panel(
        "Gradient norm",
        "short",
        "Before clipping to train.grad_clip. Good: steady. Bad: spikes, or it grows step by step: "
        "lower train.lr.",
        {"{{run}}": gauge("train_grad_norm")},
    ),
    Panel(
        "Learning rate",
        "sci",
        "Good: it follows the schedule: up in train.warmup_steps, then down.",
        {"{{run}}": gauge("train_lr")},
    ),
    Panel(
        "Steps",
        "short",
        "The current step, and the last one. Good: a straight line.",
        {
            "step, {{run}}": gauge("train_step"),
            "last, {{run}}": gauge("stage_items", "run", 'stage="train"'),
        },
    ),
    Panel(
        "Steps skipped",
        "short",
        "Steps whose loss or gradient was not finite, which changed nothing; and whether the last one was "
        "such a step. Good: 0. A few: single samples, named in the run's train/not_finite. Bad: several in "
        "a row, which end the run unless train.on_not_finite is skip.",
        {
            "since the start, {{run}}": f"sum by (run) ({ours('train_steps_skipped')})",
            "the last, {{run}}": gauge("train_not_finite"),
        },
        kind="number",
        levels=(0.5, 1),
        width=4,
    ),
    Panel(
        "Epoch",
        "short",
        "Passes over the samples, from 0. Bad: many, with a held-out loss that grows.",
        {"{{run}}": gauge("train_epoch")},
        kind="number",
        width=4,
    ),
]

_FAST = [
    Panel(
        "Tokens a second",
        "suffix: tokens/s",
        "Patches trained on by all ranks: of the last step, and on average with all pauses. Good: "
        "both steady, and close. Bad: far apart: time goes to checkpoints, held-out losses or "
        "restarts.",
        {
            "step, {{run}}": gauge("train_tokens_per_s"),
            "with pauses, {{run}}": rate("train_tokens"),
        },
    ),
    Panel(
        "Model FLOP utilization",
        "percentunit",
        "FLOP/s of the model divided by the peak of the GPUs (dense bfloat16, from their data sheets). "
        "Good: 35 to 55 %. Bad: below 20 %. For other devices enter the peak of a rank above.",
        {"{{run}}": _MFU},
    ),
    Panel(
        "FLOP/s",
        "flops",
        "Floating-point operations of the model per second, all ranks. Good: steady.",
        {"{{run}}": gauge("train_flops_per_s")},
    ),
    Panel(
        "Duration of a step",
        "s",
        "Good: steady. Bad: single long steps (data, other jobs on the node), or a slow rise (memory).",
        {"{{run}}": gauge("train_step_s")},
    ),
    Panel(
        "Waiting for packs",
        "percentunit",
        "Fraction of the step's time. Good: below 5 %. Bad: above 20 %: the GPUs starve; see the data "
        "dashboard.",
        {"{{run}}": gauge("train_data_wait_share")},
    ),
    Panel(
        "Useful tokens",
        "percentunit",
        "Real tokens divided by tokens computed. Good: above 98 %: there is no padding.",
        {"{{run}}": gauge("train_useful_token_share")},
    ),
    Panel(
        "Cost spread",
        "percentunit",
        "How much longer the costliest rank computes than the mean. Good: below 5 %. Bad: above "
        "20 %: the others wait for it in every step.",
        {"{{run}}": gauge("train_cost_spread")},
    ),
    Panel(
        "Memory of the ranks",
        "bytes",
        "Peak memory of each rank: of its GPU, or of the machine if it has none. Good: equal, and well "
        "below the total. Bad: it rises from hour to hour.",
        {"rank {{rank}} of {{run}}": gauge("train_memory_bytes", "run, rank")},
    ),
]

_SAFE = [
    Panel(
        "Age of the newest checkpoint",
        "s",
        "The time a failure now would cost. Good: a saw-tooth no higher than the duration of "
        "train.checkpoint_every steps. Bad: it only grows: checkpoints fail or do not end.",
        {"{{run}}": f"time() - {gauge('train_checkpoint_time_s')}"},
    ),
    Panel(
        "Ranks",
        "short",
        "Ranks that train. Good: as many as train.ranks.",
        {"{{run}}": gauge("train_world_size")},
    ),
    Panel(
        "Starts",
        "short",
        "How often the ranks were started, on live nodes. Good: once. Bad: repeatedly: a rank dies, or "
        "spot nodes are preempted; see the cluster dashboard.",
        {"{{run}}": f"sum by (run) ({ours('train_starts')})"},
    ),
    Panel(
        "State of the controller",
        "short",
        "State of Ray Train. Good: RUNNING. Bad: SCHEDULING or RESTARTING for long: it waits for nodes.",
        {
            "{{ray_train_controller_state}}": "sum by (ray_train_controller_state) "
            f"({rays('ray_train_controller_state')} > 0)"
        },
    ),
    Panel(
        "Time in checkpoints",
        "s",
        "Time that the ranks have spent reporting checkpoints, since they were started. Bad: a "
        "large part of the run: raise train.checkpoint_every, or look at the storage.",
        {
            "rank {{ray_train_worker_world_rank}}": "max by (ray_train_worker_world_rank) "
            f"({rays('ray_train_report_total_blocked_time_s')})"
        },
    ),
    Panel(
        "Time to start the ranks",
        "s",
        "Good: a minute. Bad: more: nodes come slowly, or the image is large.",
        {
            "{{ray_train_run_id}}": "max by (ray_train_run_id) "
            f"({rays('ray_train_worker_group_start_total_time_s')})"
        },
    ),
]

BOARD = Board(
    uid="vitascope-training",
    title="Vitascope: training",
    description="Whether the run learns, how fast it is, and what a failure would cost.",
    variables={"peak_tflops": ("0", "Peak TFLOP/s of a rank, where unknown")},
    rows=[
        Row("Learning", _LEARNING),
        Row("Speed", _FAST),
        Row("Safety", _SAFE),
    ],
)
