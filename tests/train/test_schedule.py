"""Learning rate and EMA decay over a run."""

import pytest

from vitascope.train.schedule import ema_decay, learning_rate
from vitascope.train.settings import TrainSettings

SETTINGS = TrainSettings(lr=1e-3, warmup_steps=10, steps=110, final_lr_share=0.1, ema_decay=0.99)


def test_the_rate_rises_to_its_peak_and_falls_to_its_share() -> None:
    rates = [learning_rate(SETTINGS, step) for step in range(111)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == rates[10] == pytest.approx(1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[110] == pytest.approx(1e-4)


def test_no_warm_up_begins_at_the_peak() -> None:
    assert learning_rate(SETTINGS.model_copy(update={"warmup_steps": 0}), 0) == pytest.approx(1e-3)


def test_the_average_forgets_the_first_weights_quickly() -> None:
    decays = [ema_decay(SETTINGS, step) for step in range(2000)]
    assert decays[0] == pytest.approx(0.1)
    assert decays == sorted(decays)
    assert decays[-1] == 0.99
