"""Passwords and keys are detected wherever settings may hold them, and nothing else is."""

import time

import pytest

from vitascope import config, storage
from vitascope.config import SettingsError
from vitascope.credentials import in_uri, is_secret_name, redacted

SECRET = "hunter2secret9999"
WHERE = "clips.filters.aesthetic.options"


@pytest.mark.parametrize(
    ("override", "place", "instead"),
    [
        (f"caption.endpoint=https://user:{SECRET}@host/v1", "caption.endpoint", "OPENAI_API_KEY"),
        (f"caption.endpoint=https://{SECRET}@host/v1", "caption.endpoint", "OPENAI_API_KEY"),
        (f"caption.endpoint=https://host/v1?api_key={SECRET}", "caption.endpoint", "OPENAI_API_KEY"),
        (f"caption.endpoint=https://host/v1?v=1&X-Token={SECRET}", "caption.endpoint", "OPENAI_API_KEY"),
        (f"caption.endpoint_options.api_key={SECRET}", "caption.endpoint_options.api_key", "OPENAI_API_KEY"),
        (f"caption.endpoint_options={{apiKey = '{SECRET}'}}", "endpoint_options.apiKey", "OPENAI_API_KEY"),
        (f"caption.endpoint_options.Authorization=Bearer {SECRET}", "Authorization", "OPENAI_API_KEY"),
        (f"caption.endpoint_options.extra=sk-{SECRET}", "caption.endpoint_options.extra", "OPENAI_API_KEY"),
        (f"caption.endpoint_model=sk-{SECRET}", "caption.endpoint_model", "OPENAI_API_KEY"),
        (f"caption.endpoint=https://user:{SECRET}/a@host/v1", "caption.endpoint", "OPENAI_API_KEY"),
        (f"caption.endpoint=https://host/v1#token={SECRET}", "caption.endpoint", "OPENAI_API_KEY"),
        (f"caption.endpoint=https://host/sk-proj-{SECRET}{SECRET}/v1", "caption.endpoint", "OPENAI_API_KEY"),
        (f"caption.endpoint=ftp://user:12/{SECRET}@host", "caption.endpoint", "got"),
        (f"caption.endpoint_options.pass={SECRET}", "caption.endpoint_options.pass", "OPENAI_API_KEY"),
        (f"caption.sk-{SECRET}=1", "caption", "unknown key"),
        (f"sk-{SECRET}.key=1", "--set", "unknown key"),
        (f"{WHERE}.password={SECRET}", f"{WHERE}.password", "environment variable"),
        (f"{WHERE}.model=s3://key:{SECRET}@b/m", f"{WHERE}.model", "environment variable"),
        (f"clips.input=s3://AKIA:{SECRET}@bucket/in", "clips.input", "AWS_SECRET_ACCESS_KEY"),
        (f"clips.catalog=https://b/x?X-Amz-Signature={SECRET}", "clips.catalog", "AWS_SECRET_ACCESS_KEY"),
        (f"generate.media_from=['s3://a', 's3://k:{SECRET}@b']", "generate.media_from[1]", "AWS_SECRET"),
        (f"cluster.address=ray://u:{SECRET}@head:10001", "cluster.address", "RAY_AUTH_TOKEN"),
        (f"evaluate.nothing.password={SECRET}", "evaluate", "nothing"),
        (f"nosection.endpoint=https://u:{SECRET}@host", "nosection", "unknown key"),
        (f"https://u:{SECRET}@host", "--set", "section.key=value"),
    ],
)
def test_a_credential_is_refused_and_not_repeated(override: str, place: str, instead: str) -> None:
    with pytest.raises(SettingsError) as refused:
        config.load(None, [override])
    assert place in str(refused.value)
    assert instead in str(refused.value)
    assert SECRET not in str(refused.value)
    assert SECRET not in repr(refused.value.__cause__)


@pytest.mark.parametrize(
    "override",
    [
        "caption.endpoint=https://host:8000/v1",
        "caption.endpoint=https://host/v1?api-version=2024-06-01",
        "caption.endpoint_options={temperature = 0.2, prompt_cache_key = 'clips', max_tokens = 9}",
        "caption.endpoint_options={stop_token = '</s>', keyframes = 3, tokenizer = 'x', top_k = 5}",
        "caption.prompts.caption=Who is at https://example.com/@user?",
        "clips.input=s3://bucket/name@home",
        "clips.input=s3://bucket/hf_models/sk-learn-models-2024/run@2",
        "clips.input=s3://bucket/hf_20241130T101253Z/sk_0123456789abcdef/x",
        "clips.input=s3://bucket/AKIAcollection2023videos/eyJidWNrZXQiOiJteS1idWNrZXQiLCJrZXkiOiIxMjMuanBnIn0",
        "clips.input=s3://arn:aws:s3:us-west-2:1234:accesspoint/x/name@home",
        "caption.endpoint=https://host:8000/v1/a_b?two_pass=1",
        "caption.endpoint_options={two_pass = true, passes = 2}",
        "clips.input=videos/what?key=c",
        f"{WHERE}={{model = '/models/clip', head = '/models/head.safetensors'}}",
    ],
)
def test_what_is_no_credential_is_taken(override: str) -> None:
    assert config.load(None, [override])


@pytest.mark.parametrize(
    "name",
    ["api_key", "API-KEY", "apiKey", "key", "x-auth-token", "db_password", "cookie", "smtpPass", "pass"],
)
def test_names_of_credentials(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["sort_key", "tokens", "max_tokens", "keyboard", "eos_token", "secretary", "two_pass"]
)
def test_other_names(name: str) -> None:
    assert not is_secret_name(name)


def test_a_location_with_credentials_is_not_repeated_by_the_storage() -> None:
    for uri in (f"s3://key:{SECRET}@bucket/a", f"ftp://u:{SECRET}@host/a"):
        with pytest.raises(ValueError, match="credentials before the @") as refused:
            storage.exists(uri)
        assert SECRET not in str(refused.value)
    assert in_uri("s3://bucket/a@b") is None
    assert SECRET not in redacted(f"see https://u:{SECRET}@h/x and sk-{SECRET}")
    for text in (f"u:a/{SECRET}@h/x", f"user:p@ss/{SECRET}@host", f"h/?token={SECRET}", f"u:12/{SECRET}@h"):
        assert SECRET not in redacted(f"see https://{text} and more")


@pytest.mark.parametrize("text", ["a" * 100_000, "a" * 50_000 + ".b=1", "a://b:x" * 5000, "://" * 30_000])
def test_long_text_costs_no_time(text: str) -> None:
    started = time.process_time()
    redacted(text)
    in_uri(text)
    assert time.process_time() - started < 2


def test_names_of_files_in_a_store_may_look_like_keys() -> None:
    """They are the user's data, and one of them must not end a run."""
    for name in ("sk_0123456789abcdef.mp4", "AKIA0123456789ABCDEF/a.mp4", "x.tar#key=5.mp4"):
        assert storage.filesystem(f"s3://bucket/{name}")[1] == f"bucket/{name}"
