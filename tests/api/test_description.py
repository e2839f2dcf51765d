"""The service is as its OpenAPI page describes it: Schemathesis finds no answer that is not."""

import subprocess
import sys
from pathlib import Path

import httpx2 as httpx
import pytest

from api.conftest import Served
from api.in_process import ADMIN_TOKEN


def checked(local: Served, *how: str) -> str:
    """What Schemathesis says.

    It takes a request that the schema allows and that is refused for a fault. A schema cannot say that sides
    are even, or how many patches fit into a pass.
    """
    command = [Path(sys.executable).parent / "st", "run", f"{local.url}/openapi.json", *how]
    command += ["--header", f"Authorization: Bearer {ADMIN_TOKEN}", "--generation-database=none"]
    command += ["--exclude-checks=positive_data_acceptance", "--request-timeout=60", "--seed=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=local.settings.run.folder)
    return f"{done.returncode} {done.stdout}{done.stderr}"


def test_some_answers_are_as_described(local: Served) -> None:
    said = checked(local, "--phases=fuzzing", "--max-examples=2", "--max-time=40")
    assert said.startswith("0 "), said


@pytest.mark.nightly
def test_all_answers_are_as_described(local: Served) -> None:
    said = checked(local, "--max-examples=100", "--max-time=900")
    assert said.startswith("0 "), said


def test_the_page_about_the_addresses_needs_nothing_else(local: Served) -> None:
    page = httpx.get(f"{local.url}/docs")
    assert page.headers["content-type"].startswith("text/html")
    described = httpx.get(f"{local.url}/openapi.json").json()["paths"]
    assert all(path in page.text for path in described)
    assert "<script" not in page.text
    assert "://" not in page.text.replace("http://127.0.0.1", "")
