"""The demo's sources, from the packages that ship them."""

from pathlib import Path

import pytest

from vitascope import storage
from vitascope.clips.index.captions import of_sidecars
from vitascope.demo import inputs
from vitascope.ledger import Rejected
from vitascope.media.probe import probe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("demo"))
    inputs.gather(folder)
    return folder


def test_sources_differ_in_size_and_shape(folder: str) -> None:
    rows = {source.name: probe(storage.join(folder, source.name)) for source in inputs.SOURCES}
    sizes = {(row.width, row.height) for row in rows.values()}
    assert len(sizes) >= 5
    assert {(w > h) - (w < h) for w, h in sizes} == {-1, 0, 1}  # landscape, square, portrait
    assert {row.kind for row in rows.values()} == {"video", "image"}
    tower = rows["tower_portrait.mp4"]
    assert (tower.width, tower.height, tower.rotation_deg) == (304, 404, 270)


def test_each_has_a_caption_of_its_own(folder: str) -> None:
    sidecars = [storage.join(folder, Path(source.name).stem + ".txt") for source in inputs.SOURCES]
    captions = {of_sidecars([sidecar], ["caption"])["caption"] for sidecar in sidecars}
    assert len(captions) == len(inputs.SOURCES) == len(inputs.read_captions())


def test_one_file_is_broken_on_purpose(folder: str) -> None:
    with pytest.raises(Rejected):
        probe(storage.join(folder, inputs.BROKEN))


def test_a_missing_package_names_the_command() -> None:
    with pytest.raises(ValueError, match=r'pip install "vitascope\[demo\]"'):
        inputs._shipped("no-such-package", "film.mp4")
