"""Resources that a stage needs at once."""

from dataclasses import dataclass

from vitascope.config import Settings
from vitascope.feed.settings import TASKS_AT_ONCE
from vitascope.generate.settings import DECODE_CPUS, INGRESS_CPUS, TEXT_CPUS


@dataclass(frozen=True)
class Resources:
    """What `processes` need at once; with less they would wait forever.

    lower, lower_gpus: the settings to lower if there are too few CPUs, or GPUs.
    """

    processes: str
    cpus: float
    gpus: float
    lower: str
    lower_gpus: str


def of_training(settings: Settings) -> Resources:
    """The ranks and the tasks that load their packs."""
    own = settings.train
    return Resources(
        "ranks and feed", own.ranks + TASKS_AT_ONCE, own.ranks * own.use_gpu, "train.ranks", "train.ranks"
    )


def of_generation(settings: Settings) -> Resources:
    """All replicas of the app."""
    own = settings.generate
    cpus = own.text_replicas * TEXT_CPUS + own.decode_replicas * DECODE_CPUS + INGRESS_CPUS
    cpus += own.denoise_replicas * own.denoise_cpus
    gpus = own.text_replicas * own.text_gpus + own.decode_replicas * own.decode_gpus
    gpus += own.denoise_replicas * own.use_gpu
    if settings.prompts.works:
        cpus, gpus = cpus + settings.prompts.cpus, gpus + settings.prompts.use_gpu
    lower = "generate.denoise_replicas or generate.denoise_cpus"
    lower_gpus = "generate.denoise_replicas, generate.text_gpus or generate.decode_gpus"
    return Resources("replicas", cpus, gpus, lower, lower_gpus)
