"""One TOML file, checked as a whole before anything starts."""

import json
import tomllib
from pathlib import Path

import pytest

from vitascope import config
from vitascope.config import SettingsError


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


@pytest.mark.parametrize(
    "path", sorted(Path(config.default_config("x")).parent.glob("*.toml")), ids=lambda p: p.name
)
def test_the_ready_configurations_load(path: Path) -> None:
    loaded = config.load(str(path)).model_dump(mode="json")
    for section, values in tomllib.loads(path.read_text()).items():
        assert {key: loaded[section][key] for key in values} == values


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
