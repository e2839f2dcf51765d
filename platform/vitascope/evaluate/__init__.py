"""Held-out losses.

In: a trained model and the held-out samples. Out: `evaluate/losses.json` in the run's folder.

    stage       held-out loss per size bucket and noise level
"""
