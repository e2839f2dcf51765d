"""Each distinct caption is encoded once for all shards, in this run and in later ones."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from encode.t5_folders import write_umt5
from vitascope import storage
from vitascope.config import Settings, load
from vitascope.encode import encoder, stage, text
from vitascope.encode.captions import CaptionStates, forget_waiting, plan_captions
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.plan import EncodeTask, PlannedShard, StoredCaption
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.shards import no_caption, read_samples
from vitascope.encode.text import make_text_encoder
from vitascope.errors import Mistake
from vitascope.records import stable_int

CPU = torch.device("cpu")
PICTURE = {"kind": "image", "n_frames": 1, "width": 640, "height": 427, "decoder": "pillow"}


def shard(number: int, *captions: str) -> PlannedShard:
    """A shard of one picture for each caption."""
    about = {"uri": "a", "version": "", "kind": "image", "start_s": 0.0, "fps": 8.0, "decoder": "pillow"}
    names = [f"{number}.{i}" for i in range(len(captions))]
    size = {"n_frames": 1, "height": 64, "width": 64, "n_tokens": 16, "split": "train"}
    tasks = [
        EncodeTask(stable_int(name), name, name, caption=caption, **about, **size)  # type: ignore[arg-type]
        for name, caption in zip(names, captions, strict=True)
    ]
    return PlannedShard(number, tasks)


def test_captions_of_several_shards_are_encoded_first_and_those_of_one_with_it() -> None:
    plan = [shard(0, "a", "b", "b", ""), shard(1, "b", "c", "d", ""), shard(2, "d", "e")]
    held = {"e": StoredCaption("e", "/latents", 7, 3)}
    planned, first = plan_captions(plan, "/latents", held)
    assert first == ["b", "d"]
    b, d = (StoredCaption(caption, "/latents") for caption in first)
    assert [one.stored for one in planned] == [[b], [b, d], [d, held["e"]]]
    assert [one.key for one in planned] == [one.key for one in plan]


class Log:
    """Counts the captions that an encoder is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str = "minilm") -> None:
        self.asked: list[str] = []
        make = text.TEXT_ENCODERS[kind]

        def counting(settings: EncodeSettings, device: torch.device) -> Any:
            made = make(settings, device)
            encode = made.encode
            made.encode = lambda captions: self.asked.extend(captions) or encode(captions)  # type: ignore[method-assign]
            return made

        monkeypatch.setitem(text.TEXT_ENCODERS, kind, counting)


@pytest.mark.usefixtures("one_thread")
def test_states_are_read_if_they_are_stored_and_else_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Log(monkeypatch).asked
    expected = make_text_encoder(EncodeSettings()).encode(["a", "b", "c"])
    asked.clear()
    states = CaptionStates(EncodeSettings(), str(tmp_path), CPU)
    states.commit(["a", "b"])
    states.commit(["a", "b"])
    assert asked == ["", "a", "b"]
    files = [StoredCaption(caption, str(tmp_path)) for caption in ("a", "b")]
    gone = StoredCaption("c", str(tmp_path))
    found = states.of(["c", "a", "b", "a"], [*files, gone])
    assert asked == ["", "a", "b", "c"]
    for got, wanted in zip(found, [expected[i] for i in (2, 0, 1, 0)], strict=True):
        assert torch.equal(got.bfloat16(), wanted.bfloat16())
    damaged = sorted(tmp_path.glob("texts/*"))[0]
    damaged.write_bytes(b"damaged")
    assert len(states.of(["a", "b"], files)) == 2
    assert len(asked) == 5
    forget_waiting(str(tmp_path))
    assert list(tmp_path.glob("texts/*")) == []


def settings_for(run: Path, *overrides: str) -> Settings:
    small = ["encode.max_pixels=8192", "encode.shard_tokens=100", f'run.folder="{run}"']
    return load(None, [*small, *overrides])


@pytest.fixture
def pictures(media: Any, clip_row: Callable[..., dict[str, Any]]) -> Callable[..., list[dict[str, Any]]]:
    """Makes rows of CLIPS of one picture, a caption each."""
    return lambda *captions: [
        clip_row(media.china, start_s=float(i), caption=caption, **PICTURE)
        for i, caption in enumerate(captions)
    ]


def texts_of(settings: Settings) -> dict[str, torch.Tensor]:
    """The text states of each caption, which are the same in all its samples."""
    folder = latents_folder(settings)
    rows = storage.rows(storage.join(folder, "index.parquet"))
    found: dict[str, torch.Tensor] = {}
    for sample in read_samples(folder, [(row["shard"], row["row"]) for row in rows]):
        assert torch.equal(found.setdefault(sample.caption, sample.text), sample.text)
    return found


@pytest.mark.usefixtures("in_process")
def test_a_later_run_and_one_with_another_codec_encode_no_caption_again(
    tmp_path: Path, pictures: Any, put_clips: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_umt5(tmp_path / "umt5")
    hf = ["encode.text_encoder=hf", f'encode.text_folder="{folder}"']
    log = Log(monkeypatch, "hf")
    settings = settings_for(tmp_path / "run", *hf)
    put_clips(settings.run.folder, pictures(*["a rabbit", "a street"] * 10))
    stage.run(settings)
    assert sorted(log.asked) == ["", "a rabbit", "a street"]
    before = texts_of(settings)

    put_clips(settings.run.folder, pictures(*["a rabbit", "a street"] * 10, "a street", "a bridge"))
    stage.run(settings)
    assert sorted(log.asked) == ["", "a bridge", "a rabbit", "a street"]
    encoder._captions.cache_clear()
    encoder._kept.cache_clear()

    log.asked.clear()
    other = settings_for(tmp_path / "run", *hf, "encode.dct_channels=32")
    assert stage.run(other)["samples"] == 22
    assert log.asked == []
    assert texts_of(other).keys() == {*before, "a bridge"}
    assert all(torch.equal(texts_of(other)[caption], states) for caption, states in before.items())
    assert torch.equal(no_caption(latents_folder(other)), no_caption(latents_folder(settings)))
    assert not storage.exists(storage.join(latents_folder(settings), "texts"))


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("kills", [0, 1])
def test_over_the_whole_stage_each_caption_is_encoded_once_and_a_few_again_after_a_kill(
    kills: int, tmp_path: Path, pictures: Any, put_clips: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is killed among the captions of several shards, and one among those of a shard alone."""
    shared = [f"a temple in year {n}" for n in range(12)]
    alone = [f"a temple of king {n}" for n in range(3)]
    captions = [*shared, *alone, *shared, *shared]
    settings, log = settings_for(tmp_path / "run", "encode.shard_tokens=200"), tmp_path / "log"
    put_clips(settings.run.folder, pictures(*captions))
    monkeypatch.setattr(stage, "_CAPTIONS", 3)
    for name in ("encode_captions", "encode_shard"):
        monkeypatch.setattr(stage, name, counted(name, log, kills))
    assert stage.run(settings)["samples"] == len(captions)
    lines = [line.partition(" ") for line in log.read_text().splitlines()]
    assert len({process for process, _, _ in lines}) > 1
    times = Counter(caption for _, _, caption in lines if caption)
    assert times.keys() == {*shared, *alone} == texts_of(settings).keys()
    again = {caption for caption, n in times.items() if n > 1}
    assert max(times.values()) == 1 + kills
    assert len(again & {*shared}) <= 3 * kills  # what the killed worker had not committed
    assert len(again & {*alone}) <= len(alone) * kills


def counted(name: str, log: Path, kills: int) -> Callable[..., pa.Table]:
    """A function of the encoder whose workers write down each caption they encode; some are killed then."""

    def wrapped(row: pa.Table, *, settings: EncodeSettings, latents: str) -> pa.Table:
        from vitascope.encode import encoder, text

        make = text.TEXT_ENCODERS["minilm"]

        def counting(settings: EncodeSettings, device: torch.device) -> Any:
            made = make(settings, device)
            encode = made.encode

            def counted_encode(captions: list[str]) -> list[torch.Tensor]:
                with log.open("a") as file:
                    file.write("".join(f"{os.getpid()} {caption}\n" for caption in captions))
                deadline = time.monotonic() + 60
                while len({line.split()[0] for line in log.open()}) < 2 and time.monotonic() < deadline:
                    time.sleep(0.05)  # so that two share the work
                if captions != [""] and kills:
                    with suppress(FileExistsError):
                        os.close(os.open(f"{log}.{name}", os.O_CREAT | os.O_EXCL))
                        os.kill(os.getpid(), signal.SIGKILL)
                return encode(captions)

            made.encode = counted_encode
            return made

        text.TEXT_ENCODERS["minilm"] = counting
        try:
            return getattr(encoder, name)(row, settings=settings, latents=latents)
        finally:
            text.TEXT_ENCODERS["minilm"] = make

    return wrapped


def test_weights_are_held_once_a_process_only_if_they_are_converted(tmp_path: Path) -> None:
    folder = write_umt5(tmp_path)
    hf = {"text_encoder": "hf", "text_folder": str(folder)}
    same, other = (
        make_text_encoder(EncodeSettings(**hf, text_precision=p)).own_bytes for p in ("float32", "bf16")
    )
    file = (folder / "text_encoder" / "model.safetensors").stat().st_size
    assert same == 0
    assert 0.4 * file < other < 0.5 * file


@pytest.mark.usefixtures("in_process")
def test_weights_that_each_process_holds_are_reported_and_refused_if_no_node_has_room(
    tmp_path: Path,
    pictures: Any,
    put_clips: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hf = ["encode.text_encoder=hf", f'encode.text_folder="{write_umt5(tmp_path / "umt5")}"']
    settings = settings_for(tmp_path / "run", *hf, "encode.text_precision=bf16")
    put_clips(settings.run.folder, pictures("a rabbit"))
    stage.run(settings)
    note = "note: each encoder process holds 0.0 GiB of the text encoder for itself, because encode.text_pre"
    assert note in capsys.readouterr().out
    monkeypatch.setattr(stage, "_own_bytes", lambda _: 1 << 50)
    put_clips(settings.run.folder, pictures("a rabbit", "a street"))
    with pytest.raises(
        Mistake, match=r"a text encoder \(encode.text_precision\) need 1048576.0 GiB on a node"
    ):
        stage.run(settings)
