"""Signed files, and keys of every kind."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vitascope.media.mp4 import mp4_bytes, png_bytes
from vitascope.provenance.settings import ProvenanceSettings
from vitascope.provenance.signer import Claim, Signer

FRAMES = np.random.default_rng(0).integers(0, 255, (9, 48, 64, 3), dtype=np.uint8)
PLAIN = {".mp4": mp4_bytes(FRAMES, 8.0), ".png": png_bytes(FRAMES[0])}
SUFFIXES = pytest.mark.parametrize("suffix", list(PLAIN))


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's cache folder of these tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture
def development() -> ProvenanceSettings:
    return ProvenanceSettings()


@pytest.fixture
def authority(cache: Path, development: ProvenanceSettings) -> str:
    """A PEM file with the certificate of the development key's authority."""
    Signer(development)
    return str(cache / "vitascope" / "provenance" / "development.pem")


def claim(name: str = "output", **inputs: Path) -> Claim:
    return Claim(
        name, "0" * 16, "1" * 64, 2**63 - 1, None, {role: str(path) for role, path in inputs.items()}
    )


def sign(signer: Signer, suffix: str, what: Claim) -> tuple[bytes, dict[str, str] | None]:
    """A signed file, and what the sidecar says of it."""
    to = io.BytesIO()
    about = signer.write(io.BytesIO(PLAIN[suffix]), to, suffix, what)
    return to.getvalue(), about


@pytest.fixture
def signed(tmp_path: Path, development: ProvenanceSettings) -> Callable[..., Path]:
    """Writes a file signed with the development key, made from `inputs`."""

    def make(suffix: str, name: str = "output", **inputs: Path) -> Path:
        content, about = sign(Signer(development), suffix, claim(name, **inputs))
        assert about is not None
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(content)
        return path

    return make
