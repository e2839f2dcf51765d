"""Tar files as inputs: their members found by headers alone, and read in place."""

import io
import os
import random
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from vitascope import storage
from vitascope.clips.index import tar_table
from vitascope.clips.index.captions import of_sidecars
from vitascope.clips.index.catalog import Item
from vitascope.media import tars
from vitascope.media.tars import Member, list_members, locate, open_file


def tar_of(contents: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


VIDEO = random.Random(0).randbytes(300_000)
CONTENTS = {
    "000.mp4": VIDEO,
    "000.txt": b"a cat",
    "000.json": b'{"tags": ["cat"]}',
    "d/001.jpg": b"",
    "d/" + "long/" * 50 + "001@2+3#x.txt": b"odd",
    "h\u00e4schen.webm": b"12345",
}


@pytest.fixture(params=["local", "s3"])
def put(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Puts a tar somewhere and gives its location."""
    base = str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")

    def put(content: bytes, name: str = "a.tar") -> str:
        storage.put(f"{base}/{name}", content)
        return f"{base}/{name}"

    return put


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_are_found_and_read_in_place(put: Any, format: int) -> None:
    uri = put(tar_of(CONTENTS, format))
    index = list_members(uri)
    assert index.damage is None
    assert [member.name for member in index.members] == list(CONTENTS)
    for member in index.members:
        assert locate(member.uri) == member
        assert tars.shown(member.uri) == member.name
        with open_file(member.uri) as file:
            assert file.read() == CONTENTS[member.name]
    texts = {m.name: m.uri for m in index.members}
    sidecars = [texts["000.txt"], texts["000.json"]]
    assert of_sidecars(sidecars, ["caption", "tags"]) == {"caption": "a cat", "tags": "cat"}


def test_a_member_is_a_file_that_seeks(put: Any) -> None:
    (member,) = list_members(put(tar_of({"a.mp4": VIDEO}))).members
    with open_file(member.uri) as file:
        assert file.seek(-10, io.SEEK_END) == len(VIDEO) - 10
        assert file.read(100) == VIDEO[-10:]
        assert file.read() == b""
        assert file.seek(1000) == 1000
        assert file.read(5) == VIDEO[1000:1005]
        assert file.seek(20, io.SEEK_CUR) == 1025
        assert file.tell() == 1025
        assert file.read(5) == VIDEO[1025:1030]
        assert file.seek(len(VIDEO) + 5) == len(VIDEO) + 5
        assert file.read(1) == b""
        with pytest.raises((ValueError, OSError)):
            file.seek(-1)


def test_a_file_of_its_own_opens_as_ever(tmp_path: Path) -> None:
    (tmp_path / "a.tar#b.mp4").write_bytes(b"x")
    with open_file(str(tmp_path / "a.tar#b.mp4")) as file:
        assert file.read() == b"x"
    assert locate(str(tmp_path / "a.tar#b.mp4")) is None


def test_only_headers_are_read(s3: str, fetched: list[int]) -> None:
    big = {f"{i}.mp4": b"x" * 2_000_000 for i in range(5)} | {f"{i}.txt": b"t" for i in range(5)}
    storage.put(f"{s3}/a.tar", tar_of(dict(sorted(big.items()))))
    assert len(list_members(f"{s3}/a.tar").members) == 10
    assert 0 < sum(fetched) < 1_000_000  # of 10 MB
    assert len(fetched) <= 7  # a sample's video and text take one request


def test_what_is_no_plain_file_is_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(_entry("d", type=tarfile.DIRTYPE))
        tar.addfile(_entry("pipe.mp4", type=tarfile.FIFOTYPE))
        tar.addfile(_entry("._a.mp4"))
        tar.addfile(_entry("._b.mp4", type=tarfile.SYMTYPE, linkname="/etc/passwd"))
        tar.addfile(_entry("./a.mp4"))
        tar.addfile(_entry("../out.mp4"))
        tar.addfile(_entry("x/../../two.mp4"))
        tar.addfile(_entry("..b.mp4"))
        tar.addfile(_entry("to_d", type=tarfile.SYMTYPE, linkname="d"))
        tar.addfile(_entry("null", type=tarfile.CHRTYPE))
        tar.addfile(_entry("holes.mp4", type=tarfile.GNUTYPE_SPARSE))
        tar.addfile(_entry("d/1.mp4"))
    index = list_members(str(tmp_path / "a.tar"))
    assert [member.name for member in index.members] == ["a.mp4", "d/1.mp4"]
    assert index.damage is None
    outside = {"outside the folder (..)": 2, "link to a folder": 1}
    assert index.passed == {"named pipe": 1, "device": 1, "sparse file": 1, "hidden": 3} | outside
    assert dict(tar_table.row(Item(str(tmp_path / "a.tar"), "a.tar", "1", 1))["passed"]) == index.passed


def test_a_link_is_the_file_that_it_leads_to(put: Any) -> None:
    links = {
        "hard.mp4": (tarfile.LNKTYPE, "./d/000.mp4"),
        "hard_again.mp4": (tarfile.LNKTYPE, "hard.mp4"),
        "soft.mp4": (tarfile.SYMTYPE, "d/000.mp4"),
        "d/beside.mp4": (tarfile.SYMTYPE, "000.mp4"),
        "e/chain.mp4": (tarfile.SYMTYPE, "../d/beside.mp4"),
        "d/stored.mp4": (tarfile.SYMTYPE, "../.store/1"),
        "d/caf\udce9.mp4": (tarfile.SYMTYPE, "../.store/caf\udce9"),  # the byte is no UTF-8
    }
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name in ("./d/000.mp4", ".store/1", ".store/caf\udce9"):
            tar.addfile(_entry(name, size=len(VIDEO)), io.BytesIO(VIDEO))
        for name, (kind, target) in links.items():
            tar.addfile(_entry(name, type=kind, linkname=target))
    index = list_members(put(content.getvalue()))
    assert index.damage is None
    expected = ["d/000.mp4", *list(links)[:-1], r"d/caf\xe9.mp4"]
    assert [member.name for member in index.members] == expected
    for member in index.members:
        assert locate(member.uri) == member
        assert open_file(member.uri).read() == VIDEO


def test_links_that_lead_to_no_file_of_the_tar_are_told(tmp_path: Path) -> None:
    links = {
        "out.mp4": (tarfile.SYMTYPE, "/d/1.mp4"),
        "up.mp4": (tarfile.SYMTYPE, "../0.mp4"),
        "circle.mp4": (tarfile.SYMTYPE, "round.mp4"),
        "round.mp4": (tarfile.SYMTYPE, "circle.mp4"),
        "self.mp4": (tarfile.SYMTYPE, "self.mp4"),
        "early.mp4": (tarfile.LNKTYPE, "0.mp4"),  # which is not there yet
    }
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, (kind, target) in links.items():
            tar.addfile(_entry(name, type=kind, linkname=target))
        tar.addfile(_entry("folder", type=tarfile.SYMTYPE, linkname="./d"))
        tar.addfile(_entry("0.mp4"))
        tar.addfile(_entry("d/1.mp4"))
    index = list_members(str(tmp_path / "a.tar"))
    assert [member.name for member in index.members] == ["0.mp4", "d/1.mp4"]
    assert index.damage == "6 links cannot be followed: out.mp4, …"
    row = tar_table.row(Item(str(tmp_path / "a.tar"), "a.tar", "v1", 10240))
    assert row["damage"] == "6 links cannot be followed: out.mp4, …; 2 files in it can be read"


def test_a_hard_link_is_the_file_before_it_and_one_to_itself_is_nothing_new(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(_entry("a.mp4", size=3), io.BytesIO(b"old"))
        tar.addfile(_entry("a.mp4", type=tarfile.LNKTYPE, linkname="a.mp4"))
    index = list_members(str(tmp_path / "a.tar"))
    assert ([member.name for member in index.members], index.damage) == (["a.mp4"], None)
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        tar.addfile(_entry("hard.mp4", type=tarfile.LNKTYPE, linkname="a.mp4"))
        tar.addfile(_entry("soft.mp4", type=tarfile.SYMTYPE, linkname="a.mp4"))
        tar.addfile(_entry("a.mp4", size=3), io.BytesIO(b"new"))
    index = list_members(str(tmp_path / "a.tar"))
    contents = {member.name: open_file(member.uri).read() for member in index.members}
    assert contents == {"a.mp4": b"new", "hard.mp4": b"old", "soft.mp4": b"new"}
    assert index.damage == "holds 1 name twice, of which the later counts"


@pytest.mark.parametrize("folder", ["in", "./in", ".//in", "in/."])
def test_files_with_several_names_are_all_found_as_tar_writes_them(tmp_path: Path, folder: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(VIDEO)
    os.link(tmp_path / "in" / "a.mp4", tmp_path / "in" / "b.mp4")
    (tmp_path / "in" / "c.mp4").symlink_to("b.mp4")
    (tmp_path / "in" / "d").symlink_to(".")
    subprocess.run(["tar", "cf", tmp_path / "a.tar", "-C", tmp_path, folder], check=True)
    index = list_members(str(tmp_path / "a.tar"))
    assert index.damage is None
    assert sorted(member.name.split("/")[-1] for member in index.members) == ["a.mp4", "b.mp4", "c.mp4"]
    assert all(open_file(member.uri).read() == VIDEO for member in index.members)


def _entry(name: str, **facts: Any) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    for key, value in facts.items():
        setattr(entry, key, value)
    return entry


def test_a_damaged_tar_gives_what_comes_before_and_says_so(tmp_path: Path) -> None:
    whole = tar_of({f"{i}.mp4": VIDEO for i in range(3)})
    second = whole.index(b"1.mp4")
    cases = {
        "cut in data": (whole[: second + 10_000], 1, "ends within 1.mp4"),
        "cut in a header": (whole[: second + 100], 1, f"is damaged at byte {second}"),
        "a broken header": (whole[:second] + b"\x07" * 512 + whole[second + 512 :], 1, "is damaged at byte"),
        "empty": (b"", 0, "is no plain tar"),
        "text": (b"text" * 1000, 0, "is no plain tar"),
        "compressed": (b"\x1f\x8b" + whole, 0, "is no plain tar"),
        "without its end": (whole[:second], 1, None),
    }
    for name, (content, n_members, damage) in cases.items():
        (tmp_path / "a.tar").write_bytes(content)
        index = list_members(str(tmp_path / "a.tar"))
        assert len(index.members) == n_members, name
        assert (index.damage or "").startswith(damage or ""), (name, index.damage)
        assert (index.damage is None) == (damage is None), (name, index.damage)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.REGTYPE])
@pytest.mark.parametrize("claimed", [8 << 30, 1 << 62, (1 << 63) - 1])
def test_a_size_that_lies_costs_no_memory(tmp_path: Path, kind: bytes, claimed: int) -> None:
    entry = _entry("a.mp4", type=kind, size=claimed)
    (tmp_path / "a.tar").write_bytes(
        tar_of({"0.mp4": b"x"})[:1024] + entry.tobuf(tarfile.GNU_FORMAT) + b"x" * 512
    )
    index = list_members(str(tmp_path / "a.tar"))
    assert [member.name for member in index.members] == ["0.mp4"]
    assert index.damage


def test_any_bytes_at_all_end_in_an_answer(tmp_path: Path) -> None:
    chance = random.Random(1)
    whole = tar_of({f"{i}.mp4": b"x" * 700 for i in range(6)} | {"n" * 200: b"y"})
    n_members, n_damaged = 0, 0
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 20)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        (tmp_path / "a.tar").write_bytes(content[: chance.randint(0, len(content))])
        index = list_members(str(tmp_path / "a.tar"))
        assert all(m.start + m.size_bytes <= len(content) for m in index.members)
        n_members, n_damaged = n_members + len(index.members), n_damaged + bool(index.damage)
    assert min(n_members, n_damaged) > 100


def test_a_location_names_its_bytes() -> None:
    member = Member("s3://b/x.tar", "d/000.mp4", 1536, 20480)
    assert member.uri == "s3://b/x.tar#d/000.mp4@1536+20480"


def test_of_two_members_of_one_name_the_later_counts(tmp_path: Path) -> None:
    first, second = tar_of({"a.mp4": b"old", "b.mp4": b"-"}), tar_of({"a.mp4": b"new one"})
    (tmp_path / "a.tar").write_bytes(first[:2048] + second)
    index = list_members(str(tmp_path / "a.tar"))
    assert {m.name: open_file(m.uri).read() for m in index.members} == {"a.mp4": b"new one", "b.mp4": b"-"}
    assert index.damage == "holds 1 name twice, of which the later counts"


def test_a_small_member_is_fetched_alone(s3: str, fetched: list[int]) -> None:
    uri = f"{s3}/a.tar"
    storage.put(
        uri, tar_of({"a.txt": b"a cat", "b.mp4": random.Random(0).randbytes(20_000_000), "c.txt": b""})
    )
    text, video, empty = list_members(uri).members
    fetched.clear()
    assert (open_file(text.uri).read(), open_file(empty.uri).read(), fetched) == (b"a cat", b"", [])
    with open_file(video.uri) as file:
        assert len(file.read(1000)) == 1000
    assert sum(fetched) <= 9 << 20  # not the 50 MB that s3fs would read ahead


def test_a_name_that_is_not_utf8_is_shown_and_opened(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        entry = _entry("caf\xe9.mp4", size=3)
        tar.addfile(entry, io.BytesIO(b"abc"))
    (member,) = list_members(str(tmp_path / "a.tar")).members
    assert member.name == r"caf\xe9.mp4"
    assert open_file(member.uri).read() == b"abc"
