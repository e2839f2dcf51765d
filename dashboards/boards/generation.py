"""Queue, occupancy, latency, failures, cost of a clip."""

from boards.kit import RATE, Board, Panel, Row, gauge, ours, rate, rays

_APP = 'application=~"vitascope.*"'
_OK, _FAILED = 'outcome="ok"', 'outcome="generation_failed"'
_DENOISE, _BATCH = f'deployment="Denoise",{_APP}', 'stage="generate"'
_ANSWERED = f"sum by (run) (rate({ours('requests')}{RATE}))"

_REQUESTS = [
    Panel(
        "Answered a minute",
        "short",
        "Requests answered, by outcome. Good: ok, steady. Bad: generation_failed; the manifest lists "
        "the requests and reasons.",
        {"{{outcome}}": f"60 * {rate('requests', 'outcome')}"},
    ),
    Panel(
        "Failure rate",
        "percentunit",
        "Requests that failed in the app, divided by all answered ones. Good: 0. Invalid requests do "
        "not count.",
        {
            "{{run}}": f"(sum by (run) (rate({ours('requests', _FAILED)}{RATE}))"
            f" or 0 * {_ANSWERED}) / {_ANSWERED}"
        },
    ),
    Panel(
        "Mean latency",
        "s",
        "From sending a request to its output, including waiting, by mode. Good: steady. Bad: it "
        "grows with the queue: use more replicas, or fewer requests at once.",
        {"{{mode}}": f"{rate('request_s', 'mode', _OK)} / ({rate('requests', 'mode', _OK)} > 0)"},
    ),
    Panel(
        "Progress",
        "percentunit",
        "Fraction of the batch that is answered. Good: a straight line.",
        {"{{run}}": f"{gauge('stage_items_done', 'run', _BATCH)} / {gauge('stage_items', 'run', _BATCH)}"},
        top=1,
    ),
    Panel(
        "In the model",
        "short",
        "Requests that are in the passes, and those that wait for room in one. Good: some wait, so "
        "that passes are full. Bad: none run while some wait.",
        {
            "running, {{run}}": f"sum by (run) ({ours('generate_running')})",
            "waiting, {{run}}": f"sum by (run) ({ours('generate_waiting')})",
        },
    ),
    Panel(
        "Queue in front of the app",
        "short",
        "Requests that no replica has taken yet. Good: short, or falling. Bad: it grows: use more "
        "replicas of that deployment.",
        {"{{deployment}}": f"sum by (deployment) ({rays('ray_serve_deployment_queued_queries', _APP)})"},
    ),
]

_PASSES = [
    Panel(
        "Occupancy",
        "percentunit",
        "Patches in the passes divided by generate.token_budget. Good: above 80 % while requests wait. "
        "Bad: low while many wait: they are too large to share a pass.",
        {"{{run}}": f"{rate('generate_pass_tokens')} / {rate('generate_pass_budget')}"},
        top=1,
    ),
    Panel(
        "Patches a second",
        "suffix: tokens/s",
        "Patches that go through the model. Good: steady while requests wait.",
        {"{{run}}": rate("generate_pass_tokens")},
    ),
    Panel(
        "Duration of a pass",
        "s",
        "Mean duration. Good: steady. Bad: it grows while occupancy does not: another process on the GPU.",
        {"{{run}}": f"{rate('generate_pass_s')} / ({rate('generate_passes')} > 0)"},
    ),
    Panel(
        "Busy replicas",
        "short",
        "Time of Denoise replicas in passes, as a number of replicas. Good: close to their number. Bad: "
        "far below it while requests are in the app: text, decode or storage are too slow.",
        {
            "busy, {{run}}": rate("generate_pass_s"),
            "replicas": f"count({rays('ray_serve_deployment_replica_healthy', _DENOISE)} == 1)",
        },
    ),
]

_REPLICAS = [
    Panel(
        "Replicas",
        "short",
        "Healthy replicas of each deployment. Good: as many as the settings ask for.",
        {"{{deployment}}": f"sum by (deployment) ({rays('ray_serve_deployment_replica_healthy', _APP)})"},
    ),
    Panel(
        "Requests in replicas",
        "short",
        "Requests that each deployment works on. Good: most in Denoise. Bad: many in TextEncode "
        "or DecodeWrite: raise generate.text_replicas, generate.decode_replicas.",
        {"{{deployment}}": f"sum by (deployment) ({rays('ray_serve_replica_processing_queries', _APP)})"},
    ),
    Panel(
        "Cost of a clip",
        "currencyUSD",
        "Time in passes, at the price above, divided by the outputs of the same time. Good: steady. "
        "Bad: it grows while the sizes stay the same: look at occupancy. Excludes idle time: see the "
        "overview.",
        {
            "{{run}}": f"$price_gpu_hour / 3600 * {rate('generate_pass_s')}"
            f" / ({rate('requests', 'run', _OK)} > 0)"
        },
    ),
]

BOARD = Board(
    uid="vitascope-generation",
    title="Vitascope: generation",
    description="The generation app and the batches that run through it.",
    variables={"price_gpu_hour": ("1.0", "Price of an hour of a denoise replica")},
    rows=[
        Row("Requests", _REQUESTS),
        Row("Passes", _PASSES),
        Row("Replicas and cost", _REPLICAS),
    ],
)
