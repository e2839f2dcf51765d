"""Learning rate and EMA decay of a step."""

from math import cos, pi

from vitascope.train.settings import TrainSettings


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Linear warm-up to the peak, then a cosine to `final_lr_share` of it at the last step."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    share = settings.final_lr_share
    return settings.lr * (share + (1 - share) * (1 + cos(pi * min(1.0, progress))) / 2)


def ema_decay(settings: TrainSettings, step: int) -> float:
    """The configured decay, but early on no slower than an average over the steps so far."""
    return min(settings.ema_decay, (1 + step) / (10 + step))
