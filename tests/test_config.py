"""One TOML file, checked as a whole before anything starts."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from vitascope import config
from vitascope.config import SettingsError
from vitascope.files import packaged


def write(folder: Path, text: str) -> str:
    path = folder / "settings.toml"
    path.write_text(text)
    return str(path)


def test_what_is_saved_loads_to_an_equal_value(tmp_path: Path) -> None:
    settings = config.load(None, ["train.lr=3e-4", f"run.folder={tmp_path}", "clips.durations_s=[0.5, 1.5]"])
    assert config.load(config.save(settings)) == settings


def test_override_wins_over_the_file(tmp_path: Path) -> None:
    source = write(tmp_path, "[train]\nlr = 1e-3\nsteps = 7\n")
    settings = config.load(source, ["train.lr=1e-4"])
    assert (settings.train.lr, settings.train.steps) == (1e-4, 7)


def test_an_override_that_is_no_toml_value_is_text() -> None:
    assert config.load(None, ["clips.input=s3://bucket/videos"]).clips.input == "s3://bucket/videos"


def test_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\[train\] unknown key 'step'; did you mean 'steps'"):
        config.load(write(tmp_path, "[train]\nstep = 1\n"))
    with pytest.raises(SettingsError, match=r"\[train\] unknown key 'learning_rat'; .*\blr\b"):
        config.load(write(tmp_path, "[train]\nlearning_rat = 1\n"))
    with pytest.raises(SettingsError, match="unknown key 'warmup_step'; did you mean 'warmup_steps'"):
        config.load(None, ["train.warmup_step=1"])


def test_unknown_section_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown key 'trian'; did you mean 'train'"):
        config.load(write(tmp_path, "[trian]\nlr = 1\n"))
    with pytest.raises(SettingsError, match="did you mean 'train'"):
        config.load(None, ["trian.lr=1"])


def test_every_unknown_key_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("[train]\nstep = 1\nbf16 = true\n[clips]\nfsp = 8\n")
    with pytest.raises(SettingsError) as refused:
        config.load(str(tmp_path / "s.toml"))
    named = [line.partition("]")[2].split(";")[0].strip() for line in str(refused.value).splitlines()]
    assert named == ["unknown key 'fsp'", "unknown key 'step'", "unknown key 'bf16'"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("generate.batch=a/b", "generate.batch: expected name of the batch: letters, digits, `-`"),
        ("caption.endpoint=ftp://x", "caption.endpoint: expected base URL of the endpoint, http://"),
        ("clips.filters=3", "clips.filters: expected a table, [clips.filters] with keys below it, got 3"),
    ],
)
def test_what_is_expected_is_said_in_the_words_of_the_settings(override: str, expected: str) -> None:
    with pytest.raises(SettingsError) as refused:
        config.load(None, [override])
    assert expected in str(refused.value)


def test_every_mistake_is_listed_with_what_was_got(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        config.load(write(tmp_path, '[train]\nlr = "fast"\nsteps = 0\n[clips]\nfps = -1\n'))
    for part in ("train.lr", "'fast'", "train.steps", "clips.fps", "-1"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("clips.durations_s=[0]", r"clips\.durations_s\.0: .* greater than or equal to 0\.01, got 0"),
        ("clips.durations_s=[1, -1]", r"clips\.durations_s\.1: .* greater than or equal to 0\.01, got -1"),
        ("clips.durations_s=[nan]", r"clips\.durations_s\.0: .* got nan"),
        ("clips.every_s=0", r"clips\.every_s: .* greater than or equal to 0\.01, got 0"),
        ("evaluate.timesteps=[0]", r"evaluate\.timesteps\.0: .* greater than 0, got 0"),
        ("evaluate.timesteps=[0.5, 2]", r"evaluate\.timesteps\.1: .* less than or equal to 1, got 2"),
        ("generate.batch=../x", r"generate\.batch: .* got '\.\./x'"),
        ("generate.batch=.x", r"generate\.batch: .* got '\.x'"),
        ("generate.batch=", r"generate\.batch: .* got ''"),
    ],
)
def test_values_out_of_bounds_are_refused(override: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        config.load(None, [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("caption.refusal=(", r"caption\.refusal: is no regular expression \(.*\), got '\('"),
        (
            "clips.captions=s3://b/c.xlsx",
            r"clips\.captions: is no \.parquet or \.csv table, got 's3://b/c\.xlsx'",
        ),
        ("clips.filters.width.min=nan", r"clips\.filters\.width\.min: .* finite number, got nan"),
    ],
)
def test_what_would_fail_after_hours_is_refused_at_once(override: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        config.load(None, [override])


def test_an_override_reaches_tables_within_a_section() -> None:
    filters = config.load(
        None, ["clips.filters.motion.use=drop", "clips.filters.motion.min=0.5"]
    ).clips.filters
    assert (filters.motion.use, filters.motion.min) == ("drop", 0.5)
    with pytest.raises(SettingsError, match="unknown key 'motoin'; did you mean 'motion'"):
        config.load(None, ["clips.filters.motoin.use=drop"])
    with pytest.raises(SettingsError, match="fps has a value, and no keys"):
        config.load(None, ["clips.fps=8", "clips.fps.x=1"])


def test_values_at_their_bounds_are_taken() -> None:
    overrides = ["evaluate.timesteps=[0.001, 1]", "generate.batch=2024-05_v1.2", "clips.every_s=0.01"]
    assert config.load(None, overrides).evaluate.timesteps == (0.001, 1.0)


def test_settings_of_one_section_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(SettingsError, match="multiple of 8"):
        config.load(None, ["model.width=100", "model.heads=3"])


@pytest.mark.parametrize("override", ["lr=1", "train.lr", "train=1", "=1"])
def test_malformed_override_is_explained(override: str) -> None:
    with pytest.raises(SettingsError, match=r"takes section\.key=value"):
        config.load(None, [override])


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no settings file at"):
        config.load(str(tmp_path / "none.toml"))
    with pytest.raises(SettingsError, match="not valid TOML"):
        config.load(write(tmp_path, "[train\n"))


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config.load(None).train.lr = 1.0  # type: ignore[misc]


def test_schema_describes_every_section() -> None:
    schema = json.loads(config.schema())
    assert set(schema["properties"]) == set(config.Settings.model_fields)
    assert schema["$defs"]["TrainSettings"]["properties"]["lr"]["description"]


def test_paths_are_absolute_and_remote_folders_stay_remote() -> None:
    assert config.load(None, ["run.folder=runs/x"]).path("clips") == str(Path.cwd() / "runs/x/clips")
    assert config.load(None, ["run.folder=s3://b/x"]).path("clips") == "s3://b/x/clips"


def test_every_local_path_is_made_absolute_for_a_cluster() -> None:
    names = ("input", "captions", "catalog", "duplicates_model")
    found = config.absolute(config.load(None, [f"clips.{name}=x/a.parquet" for name in names])).clips
    assert {getattr(found, name) for name in names} == {str(Path.cwd() / "x/a.parquet")}


def test_a_captions_table_that_is_a_folder_may_end_with_a_slash() -> None:
    for location in ("s3://b/c.parquet", "x/c.PARQUET", "c.csv"):
        assert config.load(None, [f"clips.captions={location}/"]).clips.captions == location
    with pytest.raises(SettingsError, match=r"clips\.captions: is no \.parquet or \.csv table"):
        config.load(None, ["clips.captions=/"])


@pytest.mark.parametrize("path", sorted(packaged("configs").glob("*.toml")), ids=lambda p: p.name)
def test_the_ready_configurations_load(path: Path) -> None:
    loaded = config.load(str(path)).model_dump(mode="json")
    for section, values in tomllib.loads(path.read_text()).items():
        assert_holds(loaded[section], values)


def assert_holds(loaded: dict[str, Any], values: dict[str, Any]) -> None:
    """Every value is there, in sections within sections, too."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(loaded[key], dict):
            assert_holds(loaded[key], value)
        else:
            assert loaded[key] == value


@pytest.mark.parametrize("key", ["run.folder", "clips.input", "generate.requests", "generate.model"])
def test_credentials_in_a_location_are_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(SettingsError, match="holds credentials") as refused:
        config.load(None, [f"{key}=s3://AKIAKEY:hunter2secret@bucket/run"])
    assert "hunter2secret" not in str(refused.value)
    assert key in str(refused.value)
    config.load(None, [f"{key}=s3://bucket/name@home"])
    with pytest.raises(SettingsError, match=r"generate\.media_from\[1\] holds credentials"):
        config.load(None, ['generate.media_from=["s3://a", "s3://AKIAKEY:hunter2secret@bucket"]'])


def test_a_prompt_needs_a_weight_where_a_model_is_asked() -> None:
    asked = ["caption.source=folder", "caption.folder=/m", 'caption.prompts={long = "Describe."}']
    with pytest.raises(
        SettingsError, match=r"asks for long, and clips\.caption_fields gives weights to caption;"
    ):
        config.load(None, asked)
    assert config.load(None, asked[2:]).caption.source == "off"
    config.load(None, [*asked, "clips.caption_fields={caption = 1.0, long = 0.0}"])


NESTED = "x = " + "[" * 5_000 + "]" * 5_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            f"[train]\nsteps = {'9' * 5_000}\n".encode(),
            "not valid TOML: it holds a number of thousands of digits",
        ),
        (f"[train]\nsteps = 0x{'f' * 5_000}\n".encode(), "train: steps is a number of more than 64 bits"),
        (NESTED.encode(), "not valid TOML: its values are nested too deeply"),
        (bytes(range(256)), "not valid TOML: .*"),
        (b"[train]\nsteps = 7\n\0", "not valid TOML: .*"),
        ("[train]\nsteps = 7\n".encode("utf-16"), "not valid TOML: it is UTF-16 text; save it as UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "not valid TOML: .*"),
    ],
    ids=["long number", "long hexadecimal", "nested", "bytes", "nul", "utf-16", "png"],
)
def test_files_that_are_no_settings_are_one_sentence(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_bytes(content)
    with pytest.raises(SettingsError, match=message) as refused:
        config.load(str(tmp_path / "s.toml"))
    assert len(str(refused.value)) < 500


def test_a_folder_is_no_settings_file_and_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is a folder; name a TOML file"):
        config.load(str(tmp_path))
    (tmp_path / "s.toml").write_bytes("[train]\nsteps = 7\n".encode("utf-8-sig"))
    assert config.load(str(tmp_path / "s.toml")).train.steps == 7


@pytest.mark.parametrize("value", ["9" * 5_000, "[" * 5_000 + "]" * 5_000, "0x" + "f" * 5_000])
def test_an_override_that_python_cannot_read_is_one_sentence(value: str) -> None:
    with pytest.raises(SettingsError, match=r"train.*steps") as refused:
        config.load(None, [f"train.steps={value}"])
    assert len(str(refused.value)) < 500


def location_keys() -> list[str]:
    return [f"{section}.{key}" for section, key in config.location_keys()]


def test_every_setting_that_names_files_is_a_location() -> None:
    assert set(location_keys()) == {
        *("run.folder", "clips.input", "clips.captions", "clips.catalog", "clips.duplicates_model"),
        *("caption.folder", "encode.codec_folder", "encode.text_folder", "model.start_from"),
        "feed.latents",
        *("generate.requests", "generate.media_from", "generate.model", "generate.models"),
        "generate.adapters",
        "prompts.folder",
        *("provenance.certificate", "provenance.private_key"),
    }


GO_WITH = {
    "encode.codec_folder": ["encode.codec=diffusers"],
    "encode.text_folder": ["encode.text_encoder=hf"],
    "provenance.certificate": ["provenance.private_key=/key.pem"],
    "provenance.private_key": ["provenance.certificate=/chain.pem"],
}
"""What else is set with a location."""
WRITTEN = {
    "generate.media_from": '{key}=["{given}"]',
    "generate.models": '{key}.film="{given}"',
    "generate.adapters": '{key}.film=["a", "{given}"]',
}
"""Settings that are not one location."""


@pytest.mark.parametrize("key", location_keys())
def test_home_and_variables_are_replaced_as_a_shell_does(
    key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data/a")
    monkeypatch.setenv("BUCKET", "s3://b")
    monkeypatch.chdir(tmp_path)
    for given, meant in {
        "~/x.parquet": "/home/me/x.parquet",
        "$HOME/x.parquet": "/home/me/x.parquet",
        "${DATA}/x.parquet": "/data/a/x.parquet",
        "$BUCKET/x.parquet": "s3://b/x.parquet",
        "a/~/x.parquet": f"{tmp_path}/a/~/x.parquet",
        "a $5 b.parquet": f"{tmp_path}/a $5 b.parquet",
    }.items():
        override = WRITTEN.get(key, '{key}="{given}"').format(key=key, given=given)
        settings = config.absolute(config.load(None, [override, *GO_WITH.get(key, [])]))
        assert meant in config.locations(settings).values()
        again = config.load(write(tmp_path, config.to_toml(settings)))
        assert again == settings


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("$NOWHERE/x", r"names \$NOWHERE, and the environment has no NOWHERE"),
        ("${NOWHERE}/x", r"names \$\{NOWHERE\}, and the environment"),
        ("${}/x", "and the environment"),
        ("~nobody-of-this-name/x", "begins with ~nobody-of-this-name, and that home folder is not known"),
        ("", "is empty"),
        ("  ", "is empty"),
    ],
)
@pytest.mark.parametrize("key", ["run.folder", "clips.input", "generate.model"])
def test_a_location_that_cannot_be_meant_is_refused(key: str, place: str, message: str) -> None:
    with pytest.raises(SettingsError, match=rf"{key}: .*{message}"):
        config.load(None, [f'{key}="{place}"'])


def test_home_is_refused_if_nobody_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda place: place)  # a uid without a passwd entry
    with pytest.raises(SettingsError, match="begins with ~, and that home folder is not known here"):
        config.load(None, ["run.folder=~/run"])


def test_an_existing_file_of_that_very_name_is_taken_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "my$HOME").mkdir()
    (tmp_path / "~").mkdir()
    assert config.load(None, ["clips.input=my$HOME"]).clips.input == "my$HOME"
    assert config.load(None, ["clips.input=~"]).clips.input == str(tmp_path / "home")


def test_a_run_writes_over_nothing_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "settings.toml").write_text("[run]\nfolder = '.'  # mine\n")
    settings = config.load("settings.toml")
    config.check_folder(settings)
    config.save(settings)
    assert (tmp_path / "settings.toml").read_text().endswith("# mine\n")
    (tmp_path / "other" / "videos").mkdir(parents=True)
    (tmp_path / "other" / "videos" / "a.mp4").touch()
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "report.html").touch()
    (tmp_path / "home").mkdir()
    for folder, message in {
        "other": "holds videos/a.mp4, which no run wrote",
        "pages": "holds report.html, which no run wrote",
        "/": "run.folder is /; a run needs a folder of its own, such as /runs/first",
        "~": "run.folder is .*/home; a run needs a folder of its own",
    }.items():
        with pytest.raises(SettingsError, match=message):
            config.check_folder(config.load(None, [f"run.folder={folder}"]))
    config.save(config.load(None, ["run.folder=pages"]))
    config.check_folder(config.load(None, ["run.folder=pages"]))  # a run's own


@pytest.mark.parametrize(("value", "now"), [("true", "bf16"), ("false", "float32")])
def test_a_renamed_key_is_answered_with_what_to_write_now(tmp_path: Path, value: str, now: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f"[train]\nbf16 = {value}\n")
    told = rf"\[train\] unknown key 'bf16'; it is now precision; write precision = \"{now}\", or \"auto\""
    for source, overrides in ((str(file), []), (None, [f"train.bf16={value}"])):
        with pytest.raises(config.SettingsError, match=told):
            config.load(source, overrides)
