"""What a signed file claims, to C2PA's own reader and to ours; and whatever is done to it is found."""

import io
import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import c2pa
import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from provenance.conftest import FRAMES, PLAIN, SUFFIXES, claim, sign
from vitascope import cli
from vitascope.errors import Missing, Mistake
from vitascope.media.clip import Clip
from vitascope.media.probe import probe
from vitascope.provenance import verify
from vitascope.provenance.keys import load
from vitascope.provenance.settings import ProvenanceSettings
from vitascope.provenance.signer import GENERATED, Signer

Make = Callable[..., Path]


def of_reader(path: Path) -> dict[str, Any]:
    """What the library's own reader says, without any of our code."""
    with c2pa.Reader(str(path)) as reader:
        return json.loads(reader.json())


@SUFFIXES
def test_the_librarys_reader_finds_no_fault_but_an_unknown_signer(signed: Make, suffix: str) -> None:
    document = of_reader(signed(suffix))
    assert document["validation_state"] == "Valid"
    failures = document["validation_results"]["activeManifest"]["failure"]
    assert {failure["code"] for failure in failures} == {"signingCredential.untrusted"}
    active = document["manifests"][document["active_manifest"]]
    data = {one["label"]: one["data"] for one in active["assertions"]}
    (created,) = data["c2pa.actions.v2"]["actions"]
    assert created["action"] == "c2pa.created"
    assert created["digitalSourceType"] == GENERATED
    assert created["softwareAgent"]["name"] == active["claim_generator_info"][0]["name"] == "vitascope"
    own = data["org.vitascope.generation"]
    assert (own["model"], own["request"], own["seed"]) == ("0" * 16, "1" * 64, 2**63 - 1)
    assert active["signature_info"]["common_name"].startswith("Vitascope development key")


@SUFFIXES
def test_the_development_authority_is_trusted_if_it_is_given(
    signed: Make, suffix: str, authority: str
) -> None:
    path = signed(suffix)
    assert not verify.verify(str(path)).trusted
    verdict = verify.verify(str(path), [authority])
    assert verdict.state == "valid"
    assert verdict.trusted


def test_other_peoples_signatures_are_invalid_if_an_authority_is_given(
    signed: Make, tmp_path: Path, authority: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # another machine
    verdict = verify.verify(str(signed(".png")), [authority])
    assert verdict.state == "invalid"
    assert "signingCredential.untrusted" in verdict.problems[0]


def test_frames_and_index_are_those_of_the_unsigned_file(signed: Make, tmp_path: Path) -> None:
    path, plain = signed(".mp4"), tmp_path / "plain.mp4"
    plain.write_bytes(PLAIN[".mp4"])
    assert np.array_equal(decoded(path), decoded(plain))
    kinds, content, at = [], path.read_bytes(), 0
    while at < len(content):
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        kinds.append(kind)
        at += size
    assert kinds.index(b"moov") < kinds.index(b"mdat")
    picture = np.asarray(Image.open(signed(".png")))
    assert np.array_equal(picture, FRAMES[0])


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_signed_files_are_media_like_others(signed: Make, tmp_path: Path) -> None:
    plain = tmp_path / "plain.mp4"
    plain.write_bytes(PLAIN[".mp4"])
    facts, usual = probe(str(signed(".mp4"))), probe(str(plain))
    assert (facts.duration_s, facts.codec, facts.decoder) == (usual.duration_s, usual.codec, usual.decoder)
    made, same = (
        Clip(uri, facts.decoder, 0.0, 8.0, n_frames=9).frames(size=(48, 64))
        for uri in (str(tmp_path / "output.mp4"), str(plain))
    )
    assert np.array_equal(made, same)
    assert probe(str(signed(".png"))).kind == "image"


@pytest.mark.parametrize("kind", ["output.mp4", "output.png", "derived.mp4"])
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@example(where=0.0, bit=0)
def test_a_flipped_bit_is_found(signed: Make, tmp_path: Path, kind: str, where: float, bit: int) -> None:
    path = tmp_path / kind
    if not path.exists():
        for suffix in PLAIN:
            signed(suffix)
        signed(".mp4", "derived", video=tmp_path / "output.mp4", image=tmp_path / "output.png")
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    assert verify._verdict(kind, io.BytesIO(bytes(content)), "").state != "valid"


@pytest.mark.parametrize(
    ("part", "offset"),
    [
        (b"isomiso2", 0),
        (b"manifest\0\0\0", 10),
        (b"\x03c2pa\0", 1),
        (b"\x13c2pa.actions.v2\0", 0),
        (b"c2pa.assertions\0", 0),
        (b"c2pa.signature\0", 0),
        (b"\xa1cpad", 2),
        (bytes(400), 0),
    ],
    ids=["ftyp", "wrapper", "store", "flags", "assertions", "signature", "pad", "padding"],
)
def test_bytes_that_no_hash_of_c2pa_covers_are_checked(signed: Make, part: bytes, offset: int) -> None:
    content = bytearray(signed(".mp4").read_bytes())
    content[content.rindex(part) + offset] ^= 32
    changed = io.BytesIO(bytes(content))
    with c2pa.Reader("video/mp4", changed) as reader:
        assert reader.get_validation_state() == "Valid", "C2PA's reader finds it by now; the check may go"
    assert verify._verdict("it", changed, "").state == "invalid"


@SUFFIXES
@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content + b"\0",
        lambda content: content + b"\0\0\0\x08free",
        lambda content: content.replace(b"c2pa.created", b"c2pa.placed!", 1),
    ],
    ids=["shorter", "half", "longer", "a box more", "another action"],
)
def test_other_changes_are_found(signed: Make, suffix: str, change: Callable[[bytes], bytes]) -> None:
    content = change(signed(suffix).read_bytes())
    assert verify._verdict("it", io.BytesIO(content), "").state == "invalid"


@SUFFIXES
def test_a_manifest_of_another_file_is_found(signed: Make, suffix: str) -> None:
    """The pixels of one file under the manifest of another."""
    mine = signed(suffix).read_bytes()
    at = mine.index(b"uuid" if suffix == ".mp4" else b"caBX") - 4
    size = int.from_bytes(mine[at : at + 4]) + (12 if suffix == ".png" else 0)
    manifest = mine[at : at + size]
    other = bytearray(PLAIN[suffix])
    other[-30] ^= 1
    forged = bytes(other[:at]) + manifest + bytes(other[at:])
    verdict = verify._verdict("it", io.BytesIO(forged), "")
    assert verdict.state == "invalid"


def test_what_is_encoded_again_or_stripped_has_no_manifest(signed: Make, tmp_path: Path) -> None:
    path, again = signed(".mp4"), tmp_path / "again.mp4"
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([ffmpeg, "-v", "error", "-i", path, "-c:v", "mpeg4", again], check=True, timeout=60)
    assert verify.verify(str(again)).state == "none"
    with Image.open(signed(".png")) as picture:
        picture.save(tmp_path / "again.png")
    assert verify.verify(str(tmp_path / "again.png")).state == "none"
    assert verify.verify(__file__).state == "none"


def test_other_peoples_files_are_read_as_they_are(tmp_path: Path, development: ProvenanceSettings) -> None:
    """One that another program signed, without our assertion; and one whose manifest is elsewhere."""
    keys = load(development)
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo("es256", keys.chain, keys.private_key, None))
    action = {"action": "c2pa.created", "digitalSourceType": GENERATED.replace("trainedA", "a")}
    about = {
        "claim_generator_info": [{"name": "a camera\x1b[31m", "version": "2"}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }
    for name, elsewhere in (("theirs.png", False), ("elsewhere.png", True)):
        builder, signed = c2pa.Builder(about), io.BytesIO()
        if elsewhere:
            builder.set_no_embed()
            builder.set_remote_url("http://127.0.0.1:9/manifest.c2pa")
        builder.sign(signer, "image/png", io.BytesIO(PLAIN[".png"]), signed)
        (tmp_path / name).write_bytes(signed.getvalue())
    verdict = verify.verify(str(tmp_path / "theirs.png"))
    assert (verdict.state, verdict.generated, verdict.claim) == ("valid", False, None)
    assert "\x1b" not in "".join(verdict.lines())
    away = verify.verify(str(tmp_path / "elsewhere.png"))
    assert away.state == "none"
    assert "127.0.0.1:9" in away.problems[0]


@SUFFIXES
def test_inputs_are_ingredients_with_their_own_manifests(signed: Make, tmp_path: Path, suffix: str) -> None:
    first = signed(".mp4", "first")
    second = signed(".mp4", "second", video=first)
    (tmp_path / "plain.png").write_bytes(PLAIN[".png"])
    (tmp_path / "odd.mkv").write_bytes(b"no video at all")
    third = signed(
        suffix, "third", video=second, image=tmp_path / "plain.png", video_after=tmp_path / "odd.mkv"
    )
    verdict, document = verify.verify(str(third)), of_reader(third)
    assert verdict.state == "valid"
    assert {one["title"]: bool(one["manifest"]) for one in verdict.inputs} == {
        "video": True,
        "image": False,
        "video_after": False,
    }
    assert document["validation_state"] == "Valid"
    assert {claim("first").manifest, claim("second").manifest} < document["manifests"].keys()
    assert verdict.claim is not None
    assert [one["role"] for one in verdict.claim["inputs"]] == ["video", "image", "video_after"]
    assert str(tmp_path).encode() not in third.read_bytes()


def test_an_input_that_was_altered_is_recorded_as_such(signed: Make, tmp_path: Path) -> None:
    content = bytearray(signed(".mp4", "first").read_bytes())
    content[-20] ^= 1
    (tmp_path / "altered.mp4").write_bytes(content)
    derived = signed(".mp4", "derived", video=tmp_path / "altered.mp4")
    document = of_reader(derived)
    (ingredient,) = document["manifests"][document["active_manifest"]]["ingredients"]
    failures = ingredient["validation_results"]["activeManifest"]["failure"]
    assert "assertion.bmffHash.mismatch" in {failure["code"] for failure in failures}
    assert verify.verify(str(derived)).state == "valid"


def test_inputs_with_two_versions_of_one_manifest_are_named_without_it(signed: Make, tmp_path: Path) -> None:
    first = signed(".mp4", "first")
    shutil.copy(first, tmp_path / "copy.mp4")
    again = signed(".mp4", "first")
    verdict = verify.verify(str(signed(".mp4", "joined", video=tmp_path / "copy.mp4", video_after=again)))
    assert verdict.state == "valid"
    assert [one["manifest"] for one in verdict.inputs] == ["", ""]


def test_the_command_says_it_in_words_and_in_json(
    signed: Make, tmp_path: Path, authority: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good, plain, bad = str(signed(".mp4")), tmp_path / "plain.png", tmp_path / "bad.mp4"
    plain.write_bytes(PLAIN[".png"])
    bad.write_bytes(Path(good).read_bytes()[:-1])
    assert cli.main(["verify", good]) == 0
    assert "generated by a model" in capsys.readouterr().out
    assert cli.main(["verify", good, str(plain)]) == 2
    assert cli.main(["verify", good, str(plain), str(bad)]) == 1
    capsys.readouterr()
    assert cli.main(["verify", good, "--json", "--trust", authority]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert document["trusted"]
    assert document["claim"]["seed"] == 2**63 - 1


def test_what_cannot_be_verified_is_a_mistake(signed: Make, tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"no file at .*nowhere"):
        verify.verify(str(tmp_path / "nowhere.mp4"))
    with pytest.raises(Missing, match="PEM file of an authority"):
        verify.verify(str(signed(".png")), [str(tmp_path / "nowhere.pem")])
    with pytest.raises(Mistake, match="holds no certificate"):
        verify.verify(str(signed(".png")), [__file__])


def test_a_file_in_a_store_is_read_there(signed: Make, s3: str) -> None:
    from vitascope import storage

    storage.put(storage.join(s3, "signed.mp4"), signed(".mp4").read_bytes())
    assert verify.verify(storage.join(s3, "signed.mp4")).state == "valid"


def test_nothing_is_signed_if_the_settings_say_so() -> None:
    content, about = sign(Signer(ProvenanceSettings(sign=False)), ".mp4", claim())
    assert (content, about) == (b"", None)
