"""Functions as users write them."""

import numpy as np

CALLS: list[str] = []


def longer(prompt: str, *, words: str = "in the rain") -> str:
    CALLS.append(prompt)
    return f"{prompt} {words}"


def nothing(prompt: str) -> str:
    return " " * len(prompt)


def broken(prompt: str) -> str:
    raise RuntimeError(f"no model for {prompt}")


def no_dogs(prompt: str, *, animal: str = "dog") -> str | None:
    return f"no {animal}s here" if animal in prompt else None


def no_reason(prompt: str) -> bool:
    return bool(prompt)


def brightness(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(len(frames), -1).mean(axis=1)


def unsure(frames: np.ndarray) -> np.ndarray:
    return np.full(len(frames), np.nan)


NO_FUNCTION = 1
