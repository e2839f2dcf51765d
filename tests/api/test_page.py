"""The page, as a person uses it in a browser."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from PIL import Image

from api.in_process import App, serving
from vitascope.api.store.keys import Allowance, Keys
from vitascope.api.store.objects import Objects
from vitascope.config import Settings

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture
def page_of(settings_in: Callable[..., Settings], tmp_path: Path) -> Iterator[tuple[str, str, App]]:
    """The address of a service whose app is a stand-in, a key, and the app."""
    settings, app = settings_in(tmp_path / "run"), App()
    key = Keys(Objects.of(settings).root).add("me", Allowance())
    with serving(settings, app) as url:
        yield url, key, app


@contextmanager
def browser(size: dict[str, int], errors: list[str]) -> Iterator[Any]:
    """A page of a browser of this size; errors of scripts and refused resources are added to `errors`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_context(viewport=size, accept_downloads=True).new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        chromium.close()


PLAYS = """video => new Promise((done, fail) => {
    video.onerror = () => fail(video.error.message);
    if (video.readyState >= 2) done(); else video.onloadeddata = () => done();
})"""


def in_gallery(page: Any, n: int) -> None:
    page.locator("#gallery figure").nth(n - 1).wait_for()
    assert page.locator("#gallery figure").count() == n


def submit(page: Any, prompt: str) -> None:
    page.fill("#ask textarea[name=prompt]", prompt)
    page.fill("#ask input[name=seconds]", "1")
    page.click("#ask button[type=submit]")


def test_the_page_needs_no_key_and_allows_no_foreign_code(page_of: tuple[str, str, App]) -> None:
    url = page_of[0]
    answer = httpx.get(f"{url}/")
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "http" not in answer.text
    for name, kind in {"page.css": "text/css", "page.js": "text/javascript"}.items():
        part = httpx.get(f"{url}/page/{name}")
        assert (part.status_code, part.headers["content-type"].partition(";")[0]) == (200, kind)
    assert httpx.get(f"{url}/page/..%2Findex.html").status_code in (400, 404)


def test_models_say_what_the_page_offers(page_of: tuple[str, str, App]) -> None:
    url, key, _ = page_of
    (model,) = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).json()["data"]
    modes = {mode["id"]: mode for mode in model["modes"]}
    assert modes["join"] == {"id": "join", "needs": ["video", "video_after"], "may_have": []}
    assert modes["loop"]["may_have"] == ["image"]
    assert model["qualities"] == ["exact", "high", "fast"]
    assert model["sizes"][0] == "64x48"
    assert model["defaults"] | {"steps": 2, "seconds": 1, "fps": 8, "size": "64x48"} == model["defaults"]


@pytest.mark.nightly
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_from_a_prompt_to_a_video_and_on(
    page_of: tuple[str, str, App], tmp_path: Path, size: dict[str, int]
) -> None:
    url, key, app = page_of
    errors: list[str] = []
    with browser(size, errors) as page:
        page.goto(url)
        page.fill("#ask-key input", key)
        page.click("#ask-key button")
        page.wait_for_selector("#ask select[name=mode] option", state="attached")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        submit(page, "a lighthouse in a storm")
        page.wait_for_selector("#gallery figure")
        page.click(".still")
        page.locator("#viewer video").evaluate(PLAYS)
        page.click("#viewer > button")
        with page.expect_download() as download:
            page.click("[data-do=download]")
        assert Path(download.value.path()).read_bytes()[4:8] == b"ftyp"
        page.click("[data-do=again]")
        in_gallery(page, 2)
        first, second = (request for request in app.sent)
        assert (first.prompt, first.seed != second.seed) == (second.prompt, True)
        page.click("[data-do=extend] >> nth=0")
        page.click("#ask button[type=submit]")
        in_gallery(page, 3)
        assert (app.sent[-1].mode, app.sent[-1].seconds) == ("extend_forward", 2)
        page.select_option("#ask select[name=mode]", "text_to_video")
        submit(page, "wait for ever")
        page.click("#queue li button")
        page.wait_for_selector("#idle", state="visible")
        assert app.cancelled
        submit(page, "fail now")
        page.wait_for_selector("#queue .bad")
        assert "too short" in page.inner_text("#queue")
        picture = tmp_path / "dog.png"
        Image.new("RGB", (64, 48), "red").save(picture)
        page.select_option("#ask select[name=mode]", "image_to_video")
        page.set_input_files("#media input[name=image]", str(picture))
        submit(page, "a dog")
        in_gallery(page, 4)
        assert app.sent[-1].image
        page.fill("#ask input[name=size]", "63x48")
        submit(page, "odd")
        page.wait_for_selector("#refused", state="visible")
        assert "even" in page.inner_text("#refused")
        page.reload()
        in_gallery(page, 4)
        assert "too short" in page.inner_text("#queue .bad")
        page.click("#queue li:has(.bad) button")
        page.wait_for_selector("#idle", state="visible")
    assert errors == []


@pytest.mark.nightly
def test_a_queue_of_odd_prompts_and_two_models(
    settings_in: Callable[..., Settings], model_folder: Path, tmp_path: Path
) -> None:
    settings = settings_in(tmp_path, f"generate.models={{big='{model_folder}'}}")
    errors: list[str] = []
    key, odd = Keys(Objects.of(settings).root).add("me", Allowance()), "<img src=x onerror=fail()>"
    with serving(settings, App()) as url, browser(PHONE, errors) as page:
        for prompt in ("wait first", f"wait {odd}" + "z" * 900):
            body = {"prompt": prompt, "seconds": "1"}
            httpx.post(f"{url}/v1/videos", json=body, headers={"Authorization": f"Bearer {key}"})
        page.goto(url)
        page.fill("#ask-key input", "wrong")
        page.click("#ask-key button")
        page.locator("#state:has-text('valid key')").wait_for()
        page.fill("#ask-key input", f" {key}–")
        page.click("#ask-key button")
        page.locator("#queue li").nth(1).wait_for()
        newest, first = page.locator("#queue .words").all_inner_texts()
        assert (odd in newest, first) == (True, "wait first")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.route("**/v1/models", _with_other_defaults)
        page.reload()
        page.wait_for_selector("#ask select[name=mode] option", state="attached")
        page.fill("#ask input[name=seconds]", "3")
        page.select_option("#ask select[name=model]", "big")
        values = [page.input_value(f"#ask input[name={name}]") for name in ("steps", "seconds")]
        assert values == ["7", "3"]
    assert errors == []


def _with_other_defaults(route: Any) -> None:
    """Answers about models; the last one has defaults of its own."""
    models = route.fetch().json()
    models["data"][-1]["defaults"] |= {"steps": 7, "seconds": 9}
    route.fulfill(json=models)
