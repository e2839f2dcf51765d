"""The recipes in jobs/configs load, and what their comments promise follows from the networks' sizes."""

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np
import pytest

from flow.wan_folders import write_pipeline
from vitascope import cli, config
from vitascope.clips.analysis.cut import steps
from vitascope.config import Settings
from vitascope.encode.buckets import Patching
from vitascope.encode.settings import Strides
from vitascope.model.cost import BACKWARD_AND_FORWARD, WITHOUT_WEIGHTS
from vitascope.model.networks import NETWORKS, cost_of, shapes_of, trained_shapes
from vitascope.model.settings import ModelSettings
from vitascope.records import VideoSize

CONFIGS = Path(__file__).resolve().parents[1] / "jobs" / "configs"
TEXT_DIM = 4096
H200_FLOPS_PER_S = 989e12  # dense bf16
BUFFERS_BYTES = 4e9
"""Of DeepSpeed: gathered weights, and gradients on their way to the other ranks."""


@dataclass(frozen=True)
class Recipe:
    """A file, the sizes of the network as published, and its largest video."""

    name: str
    model: ModelSettings
    channels: int
    strides: Strides
    largest: VideoSize

    @cached_property
    def text(self) -> str:
        return (CONFIGS / self.name).read_text()

    @cached_property
    def settings(self) -> Settings:
        return config.load(str(CONFIGS / self.name))

    def number(self, pattern: str) -> float:
        """The one number in the file's comments that a pattern finds."""
        (found,) = re.findall(pattern, self.text, re.MULTILINE)
        return float(found.replace(",", ""))

    @property
    def n_weights(self) -> int:
        return sum(map(prod, shapes_of(self.model, self.channels, TEXT_DIM).values()))

    @property
    def n_trained(self) -> int:
        trained = self.model.model_copy(update={"lora": self.settings.model.lora})
        return sum(map(prod, trained_shapes(trained, self.channels, TEXT_DIM).values()))

    @property
    def n_tokens(self) -> int:
        return Patching(self.strides, self.model.patch).n_tokens(self.largest)

    def bytes_per_gpu(self, ranks: int) -> float:
        """Estimated peak memory of a rank at a full pack, with activation checkpointing.

        Per token: the input of every block in bf16, and what one block keeps for its backward pass, 103
        bytes times the width and 4 times the hidden width (measured in bf16 on a CPU, whose attention keeps
        more than a GPU's).
        """
        width, depth, hidden = self.model.width, self.model.depth, self.model.hidden
        per_token = 2 * width * depth + 103 * width + 4 * hidden
        return self.state_bytes / ranks + BUFFERS_BYTES + self.settings.feed.token_budget * per_token

    @property
    def state_bytes(self) -> float:
        """22 bytes a trained weight: bf16, float32 gradient, master, two moments and EMA; 2 a frozen one."""
        return 22 * self.n_trained + 2 * (self.n_weights - self.n_trained)

    def tokens_per_s(self, of_peak: float) -> float:
        """Of a GPU; a step has three times the FLOPs of a forward pass, or twice with frozen weights."""
        passes = WITHOUT_WEIGHTS if self.settings.model.lora else BACKWARD_AND_FORWARD
        cost = cost_of(self.model, self.channels, TEXT_DIM).of(np.array([self.n_tokens]), np.array([100]))
        return of_peak * H200_FLOPS_PER_S * self.n_tokens / (passes * float(cost[0]))


RECIPES = [
    Recipe(
        "wan-1.3b-full.toml",
        ModelSettings(network="wan", depth=30, width=1536, heads=12, ffn=8960),
        channels=16,
        strides=Strides(4, 8),
        largest=VideoSize(81, 480, 832),
    ),
    Recipe(
        "wan-5b-full.toml",
        ModelSettings(network="wan", depth=30, width=3072, heads=24, ffn=14336),
        channels=48,
        strides=Strides(4, 16),
        largest=VideoSize(121, 704, 1280),
    ),
    Recipe(
        "wan-14b-lora.toml",
        ModelSettings(network="wan", depth=40, width=5120, heads=40, ffn=13824),
        channels=16,
        strides=Strides(4, 8),
        largest=VideoSize(81, 480, 832),
    ),
]
EACH = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)


@EACH
def test_the_largest_video_fills_a_pack_and_clips_have_lengths_of_buckets(recipe: Recipe) -> None:
    settings = recipe.settings
    clips, encode = settings.clips, settings.encode
    assert 0.95 < recipe.n_tokens / settings.feed.token_budget <= 1
    assert f"{recipe.n_tokens:,} tokens" in recipe.text
    assert encode.max_pixels == recipe.largest.height * recipe.largest.width
    assert encode.frame_counts[-1] == recipe.largest.n_frames
    lengths = [steps(length, clips.fps) + 1 for length in clips.durations_s]
    assert set(lengths) <= set(encode.frame_counts)
    assert ", ".join(map(str, lengths[:-1])) + f" and {lengths[-1]} frames" in recipe.text
    assert settings.feed.packs_per_step % settings.train.ranks == 0
    guided = 2 * recipe.n_tokens
    assert guided <= settings.generate.max_tokens
    assert (settings.generate.max_frames, settings.generate.max_pixels) == (lengths[0], encode.max_pixels)


@EACH
def test_memory_and_speed_are_those_of_the_estimate(recipe: Recipe) -> None:
    ranks, gigabyte = recipe.settings.train.ranks, 1e9
    said = recipe.number(rf"^# {ranks} GPUs of (\d+) GB or more"), recipe.number(r"up to (\d+) GB a GPU")
    assert said[0] > 1.1 * said[1]
    assert said[1] == pytest.approx(recipe.bytes_per_gpu(ranks) / gigabyte, rel=0.05)
    assert recipe.number(r"of which ([\d.]+) GB") == pytest.approx(
        recipe.state_bytes / ranks / gigabyte, rel=0.05
    )
    fewer = {"one GPU takes": 1, "4 GPUs take": 4}
    (few,) = (words for words in fewer if words in recipe.text)
    expected = recipe.bytes_per_gpu(fewer[few]) / gigabyte
    assert recipe.number(rf"{few} up to (\d+) GB") == pytest.approx(expected, rel=0.05)
    assert recipe.number(r"checkpoint takes ([\d.]+) GB") == pytest.approx(16e-9 * recipe.n_trained, rel=0.05)
    assert recipe.number(r"Speed, estimated: ([\d,]+) to") == pytest.approx(
        recipe.tokens_per_s(0.33), rel=0.02
    )
    assert recipe.number(r" to ([\d,]+) tokens/s") == pytest.approx(recipe.tokens_per_s(0.5), rel=0.02)
    assert "Memory, estimated: " in recipe.text


@EACH
def test_its_five_commands_are_commands_on_it(recipe: Recipe) -> None:
    commands = [shlex.split(line)[1:] for line in re.findall(r"^#   (vitascope .*)$", recipe.text, re.M)]
    assert [words[0] for words in commands] == ["clips", "encode", "train", "export", "export"]
    for words in commands:
        options = cli._parser().parse_args(words)
        place = recipe.settings.run.folder if words[0] == "export" else recipe.name
        assert place in (getattr(options, "source", None), getattr(options, "settings", None))


@EACH
def test_the_settings_suit_the_network(recipe: Recipe) -> None:
    settings, objective = recipe.settings, NETWORKS["wan"].objective
    assert settings.model.start_from == settings.encode.codec_folder == settings.encode.text_folder
    assert settings.train.activation_checkpointing
    assert settings.train.conditioning_frames == "auto"
    expected = "first" if recipe.channels == 48 else "none"
    assert objective.conditioning_of(recipe.channels, per_frame=None) == expected
    assert settings.clips.fps == {16: 16, 48: 24}[recipe.channels]


def test_the_settings_are_checked_with_the_folder_and_name_it_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(CONFIGS / RECIPES[0].name)
    assert cli.main(["config", recipe]) == 2
    assert "set encode.codec_folder to a folder that diffusers wrote" in capsys.readouterr().err
    folder = write_pipeline(tmp_path)
    keys = ("encode.codec_folder", "encode.text_folder", "model.start_from")
    words = [word for key in keys for word in ("--set", f"{key}={folder}")]
    assert cli.main(["config", recipe, *words]) == 0
