"""What of the files is media, and what captions it."""

import os
import tarfile
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from vitascope import storage
from vitascope.clips.index import inputs
from vitascope.clips.index.inputs import LISTED, of_files, of_folder, of_level, of_tars, tars_among
from vitascope.clips.index.tar_table import TARS
from vitascope.clips.settings import ClipsSettings
from vitascope.storage import Listed


def listed(*names: str, in_tar: bool = False) -> pa.Table:
    """Files of 5 bytes whose version is the name's length."""
    rows = [
        {"name": n, "version": f"v{len(n)}", "size_bytes": 5, "uri": f"s3://b/{n}", "in_tar": in_tar}
        for n in names
    ]
    return pa.Table.from_pylist(rows, schema=LISTED)


def captions_of(files: pa.Table) -> dict[str, list[str]]:
    rows = of_files(files).captioned.to_pylist()
    return {row["name"]: [uri.removeprefix("s3://b/") for uri in row["beside"]] for row in rows}


def test_which_files_caption_which() -> None:
    files = listed(
        "a.mp4", "a.txt", "a.json", "x/b.jpg", "x/b.json", "b.txt", "readme.txt", "c.mp4", "d.e.mp4", "d.txt"
    )
    assert captions_of(files) == {"a.mp4": ["a.txt", "a.json"], "x/b.jpg": ["x/b.json"]}
    media = of_files(files).media["name"].to_pylist()
    assert media == ["a.mp4", "b.txt", "c.mp4", "d.e.mp4", "d.txt", "readme.txt", "x/b.jpg"]


def test_members_of_a_tar_go_together_by_what_is_before_their_first_dot() -> None:
    files = listed(
        "t.tar/1.seg.mp4", "t.tar/1.jpg", "t.tar/1.TXT", "t.tar/x.1/2.mp4", "t.tar/x/2.txt", in_tar=True
    )
    assert captions_of(files) == {"t.tar/1.seg.mp4": ["t.tar/1.TXT"], "t.tar/1.jpg": ["t.tar/1.TXT"]}
    assert "t.tar/x/2.txt" in of_files(files).media["name"].to_pylist()


def test_a_caption_changes_with_each_of_its_sidecars() -> None:
    (row,) = of_files(listed("a.mp4", "a.txt", "a.json")).captioned.to_pylist()
    assert (row["uri"], row["version"], row["size_bytes"]) == ("s3://b/a.mp4", "v5 v6", 10)
    (row,) = of_files(listed("a.mp4", "a.json")).captioned.to_pylist()
    assert (row["version"], row["size_bytes"]) == ("v6", 5)


@pytest.mark.parametrize("in_tar", [False, True])
def test_a_sidecar_may_have_its_name_in_another_unicode_form(in_tar: bool) -> None:
    composed, apart = (unicodedata.normalize(form, "t.tar/é") for form in ("NFC", "NFD"))
    assert captions_of(listed(f"{apart}.mp4", f"{composed}.txt", in_tar=in_tar)) == {
        f"{apart}.mp4": [f"{composed}.txt"]
    }
    files = listed(f"{apart}.mp4", f"{composed}.txt", f"{composed}.mp4", f"{apart}.txt", in_tar=in_tar)
    assert captions_of(files) == {f"{form}.mp4": [f"{form}.txt"] for form in (composed, apart)}


def test_of_two_texts_of_one_name_one_is_read_and_the_other_is_an_input() -> None:
    files = listed("a.mp4", "a.txt", "a.TXT")
    assert captions_of(files) == {"a.mp4": ["a.TXT"]}
    assert of_files(files).media["name"].to_pylist() == ["a.mp4", "a.txt"]


def test_no_files_are_no_inputs() -> None:
    found = of_files(LISTED.empty_table())
    assert (len(found.media), len(found.captioned), found.unreadable) == (0, 0, [])


@pytest.mark.parametrize("store", ["local", "s3"])
def test_levels_and_what_is_below_give_every_file_once(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = str(tmp_path) if store == "local" else request.getfixturevalue("s3")
    names = [
        "a.mp4",
        "b.txt",
        "x/c.mp4",
        "x/y/d.mp4",
        "x/y/z/e.mp4",
        ".hidden/f.mp4",
        "x/.g.mp4",
        "odd?/h.mp4",
    ]
    for name in names:
        storage.put(f"{root}/{name}", name.encode())
    files, folders, _ = of_level(root, root)
    assert files["name"].to_pylist() == ["a.mp4", "b.txt"]
    assert folders == [f"{root}/odd?", f"{root}/x"]
    everything, _ = of_folder(root, root)
    assert everything["name"].to_pylist() == [
        n for n in sorted(names) if "." not in (n[0], n.split("/")[-1][0])
    ]
    below = [of_folder(folder, root)[0] for folder in folders]
    assert pa.concat_tables([files, *below]).sort_by("name").equals(everything.sort_by("name"))
    assert of_level(f"{root}/a.mp4", f"{root}/a.mp4")[0]["name"].to_pylist() == ["a.mp4"]
    assert of_level(f"{root}/none", f"{root}/none")[0].num_rows == 0


def test_keys_with_empty_parts_are_found(s3: str) -> None:
    for key in ("in//a.mp4", "in/x//b.mp4", "in/c.mp4"):
        storage.put(f"{s3}/{key}", b"-")
    todo, names = [f"{s3}/in"], []
    while todo:
        files, folders, _ = of_level(todo.pop(), f"{s3}/in")
        names += files["uri"].to_pylist()
        todo += folders
    assert sorted(names) == sorted(f"{s3}/{key}" for key in ("in//a.mp4", "in/x//b.mp4", "in/c.mp4"))


def test_a_name_that_no_table_holds_is_told(tmp_path: Path) -> None:
    for name in (b"caf\xe9.mp4", b"caf\xe9.txt"):
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(b"-")
    found = of_files(of_folder(str(tmp_path), str(tmp_path))[0])
    assert (len(found.media), len(found.captioned)) == (0, 0)
    (row,) = found.unreadable
    assert (row["name"], row["reason"]) == (r"caf\xe9.mp4", "unreadable")


def test_members_become_files_and_damage_becomes_a_row() -> None:
    tars, rest = tars_among(listed("a.tar", "b.TAR", "c.tar.gz", "d.mp4"))
    assert (tars["name"].to_pylist(), rest["name"].to_pylist()) == (["a.tar", "b.TAR"], ["c.tar.gz", "d.mp4"])
    member = {"name": "0.mp4", "start": 512, "size_bytes": 9}
    rows = [
        {"name": "b.TAR", "version": "v5", "again": False, "members": [], "damage": "is no plain tar"},
        {"name": "a.tar", "version": "v5", "again": False, "members": [member, member | {"name": "x/1.txt"}]},
    ]
    members, damaged, _ = of_tars(tars, [pa.Table.from_pylist(rows, schema=TARS)])
    assert members["name"].to_pylist() == ["a.tar/0.mp4", "a.tar/x/1.txt"]
    assert members["uri"].to_pylist()[0] == "s3://b/a.tar#0.mp4@512+9"
    assert members["version"].to_pylist() == ["v5", "v5"]
    assert [(row["name"], row["detail"]) for row in damaged] == [("b.TAR", "is no plain tar")]


def test_the_captions_table_is_no_input() -> None:
    names = [
        "a.mp4",
        "c.parquet",
        "c.parquet.mp4",
        "c.parquet/_SUCCESS",
        "c.parquet/x/part-0.parquet",
        "d.csv",
    ]
    for captions in ("s3://b/c.parquet", "s3://b/c.parquet/"):
        left = inputs.without_captions(listed(*names), ClipsSettings(captions=captions))
        assert left["name"].to_pylist() == ["a.mp4", "c.parquet.mp4", "d.csv"]
    assert inputs.without_captions(listed(*names), ClipsSettings()).equals(listed(*names))


def test_a_listing_of_many_takes_little_memory() -> None:
    files = [Listed(f"s3://b/in/{i // 1000:03d}/{i:06d}.mp4", i, f"{i:032x}") for i in range(20_000)]
    table = inputs._listed(files, "s3://b/in")
    assert table["name"][1234].as_py() == "001/001234.mp4"
    assert of_files(table).media.nbytes / len(files) < 130


def test_a_few_are_found_without_looking_at_all(tmp_path: Path) -> None:
    ours = ClipsSettings(input=str(tmp_path / "in"))
    with pytest.raises(ValueError, match="no media files under"):
        inputs.some(ours, 8)
    with pytest.raises(ValueError, match=r"clips\.input is not set"):
        inputs.some(ClipsSettings(), 8)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("0.mp4"))
    assert [item.name for item in inputs.some(ours, 8)] == ["a.tar/0.mp4"]
    (tmp_path / "in" / "deep" / "b.mp4").touch()
    assert [item.name for item in inputs.some(ours, 8)] == ["deep/b.mp4"]
    (tmp_path / "in" / "c.csv").touch()
    captioned = ours.model_copy(update={"captions": str(tmp_path / "in" / "c.csv")})
    assert [item.name for item in inputs.some(captioned, 8)] == ["deep/b.mp4"]


def links_in(folder: Path, links: dict[str, str]) -> None:
    for name, target in links.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)


def names_under(root: Path) -> tuple[list[str], list[str]]:
    """The names of what can be looked at, and of what cannot, found level by level."""
    files, _ = of_folder(str(root), str(root))
    is_open = pc.is_null(files["closed"])
    return (sorted(files.filter(rule)["name"].to_pylist()) for rule in (is_open, pc.invert(is_open)))


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    root, away = tmp_path / "in", tmp_path / "away"
    for name in ("away/x/1.mp4", "away/2.mp4", "in/a.mp4", "in/.store/9/3.mp4"):
        storage.put(str(tmp_path / name), b"-")
    links_in(root, {"link": str(away), "d/again": "../../away/x", "kept": ".store/9", "one.mp4": "a.mp4"})
    found, told = names_under(root)
    expected = ["a.mp4", "d/again/1.mp4", "kept/3.mp4", "link/2.mp4", "link/x/1.mp4", "one.mp4"]
    assert (found, told) == (expected, [])


def test_links_that_lead_in_a_circle_end_and_are_told(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in ("in/a/1.mp4", "o1/2.mp4", "o2/3.mp4"):
        storage.put(str(tmp_path / name), b"-")
    links_in(root, {"self": ".", "up": "..", "a/a": "../a", "b": "a", "o": "../o1"})
    links_in(tmp_path, {"o1/to2": "../o2", "o2/to1": "../o1", "o2/root": "../in"})
    found, told = names_under(root)
    assert found == ["a/1.mp4", "o/2.mp4", "o/to2/3.mp4"]
    assert told == ["a/a", "b", "o/to2/root", "o/to2/to1", "self", "up"]
    rows = of_files(of_folder(str(root), str(root))[0]).unreadable
    assert {row["name"] for row in rows} == set(told)
    assert all("it is not followed" in row["detail"] for row in rows)


def test_hidden_files_and_folders_are_counted(tmp_path: Path) -> None:
    for name in (".hidden/1.mp4", ".a.mp4", "b/.c.mp4", "b/d.mp4"):
        storage.put(str(tmp_path / name), b"-")
    files, n_hidden = of_folder(str(tmp_path), str(tmp_path))
    assert (files["name"].to_pylist(), n_hidden) == (["b/d.mp4"], 3)
