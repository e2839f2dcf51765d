"""Opens pages of Ray's dashboard in Chromium, as a person does, and says what is on them.

    python browse.py ADDRESS FOLDER [TOKEN] < pages.json

Reads a JSON object of name -> [path, text to wait for], writes `<name>.png` into the folder, and prints one
JSON object of name -> the page's visible text, with the errors of its scripts under "errors".
"""

import json
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ADDRESS, FOLDER, *TOKEN = sys.argv[1:]


def visit(page: Page, name: str, path: str, awaited: str) -> str:
    """The text of a page once `awaited` is on it, or after a minute."""
    page.goto(f"{ADDRESS}/{path}")
    for _ in range(60):
        text = page.inner_text("body")
        if awaited in text:
            break
        page.wait_for_timeout(1000)
    page.wait_for_timeout(1500)  # for elements that are drawn after the text
    page.screenshot(path=str(Path(FOLDER) / f"{name}.png"))
    return page.inner_text("body")


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    context = browser.new_context(viewport={"width": 1500, "height": 900})
    if TOKEN:
        context.add_cookies([{"name": "ray-authentication-token", "value": TOKEN[0], "url": ADDRESS}])
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    said = {name: visit(page, name, *what) for name, what in json.load(sys.stdin).items()}
    print(json.dumps(said | {"errors": errors}))
