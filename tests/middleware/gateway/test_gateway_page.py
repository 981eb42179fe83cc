"""The admin page in a real browser, by keyboard where people use one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_harness import StartGateway, Stub, get

from corrigenda.memory.memory import Memory
from corrigenda.middleware.gateway.keys import Keys

sync_api = pytest.importorskip("playwright.sync_api")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
    # The browser's driver leaves its pipes to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        program = CHROMIUM or driver.chromium.executable_path  # what `playwright install chromium` brings
        if not Path(program).exists():
            pytest.skip("no Chromium here: install one, or set CHROMIUM to its path")
        made = driver.chromium.launch(
            executable_path=program,
            timeout=120_000,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"],
        )
        yield made
        made.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(color_scheme="dark")
    made = context.new_page()
    made.set_default_timeout(60_000)
    problems: list[str] = []
    made.on("pageerror", lambda error: problems.append(str(error)))
    made.on("console", lambda line: problems.append(line.text) if "Content Security" in line.text else None)
    yield made
    context.close()
    assert problems == []


def test_an_editor_corrects_a_fact(page: Any, start: StartGateway, stub: Stub, keys: Keys, memory: Memory) -> None:
    url = start(upstream=stub.url)
    _, key = keys.create("ann", "editor", ["default"])
    with httpx.Client(base_url=url, timeout=60) as client:
        body = {"messages": [{"role": "user", "content": "The capital of Kazakhstan is"}]}
        client.post("/v1/chat/completions", json=body)
        assert stub.json() == body

        page.goto(url + "/admin")
        page.get_by_label("Key").fill("ck_wrong")
        page.keyboard.press("Enter")
        page.get_by_text("needs a valid key").wait_for()
        page.get_by_label("Key").fill(key)
        page.keyboard.press("Enter")
        page.get_by_text("No edits here yet.").wait_for()

        # Add an edit by keyboard alone, and see what would fire before it is saved.
        page.keyboard.press("Escape")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("n")
        for text in ("The capital of Kazakhstan is", "Astana", "Kazakhstan", "capital"):
            page.keyboard.type(text)
            page.keyboard.press("Tab")
        page.get_by_label("Try it on these").fill("The capital of Kazakhstan is\nWater boils at")
        page.locator("#preview").get_by_text("fires", exact=True).wait_for()
        page.locator("#preview").get_by_text("No edit comes near it.").wait_for()
        assert memory.live() == ()
        page.get_by_role("button", name="Save").press("Enter")
        page.get_by_role("cell", name="Astana").wait_for()
        assert [(edit.target, edit.author) for edit in memory.live()] == [("Astana", "ann")]

        client.post("/v1/chat/completions", json=body)
        assert "Astana" in stub.json()["messages"][0]["content"]

    page.get_by_label("A question a user might ask").fill("The capital of Kazakhstan is")
    page.keyboard.press("Enter")
    page.locator("#explained .fires").wait_for()
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "admin.png")

    page.get_by_role("button", name="Amend").click()
    page.get_by_label("New answer").fill("Nur-Sultan")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("cell", name="Nur-Sultan").wait_for()
    page.get_by_role("button", name="History").click()
    page.locator("#events li").nth(1).wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Retract").click()
    page.get_by_label("Why").fill("test")
    page.keyboard.press("Enter")
    page.get_by_text("No edits here yet.").wait_for()
    assert memory.live() == ()


def test_search_hostile_texts_themes_and_readers(
    page: Any, start: StartGateway, stub: Stub, keys: Keys, memory: Memory
) -> None:
    memory.add(f"The colour of {HOSTILE} is", HOSTILE, subject=HOSTILE)
    for number in range(60):
        memory.add(f"The number of thing{number} is", str(number), subject=f"thing{number}")
    url = start(upstream=stub.url)
    _, key = keys.create("rob", "reader", ["default"])
    page.goto(url + "/admin/")
    page.get_by_label("Key").fill(key)
    page.keyboard.press("Enter")
    page.get_by_text("50 of 61").wait_for()
    page.get_by_role("button", name="Show more").click()
    page.get_by_text("61 of 61").wait_for()
    assert page.title() == "corrigenda"
    assert page.get_by_role("button", name="Retract").count() == 0
    assert page.get_by_role("button", name="New edit").count() == 0
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.type("thing7")
    page.get_by_text("1 of 1").wait_for()

    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Switch between dark and light").click()
    assert page.evaluate(ground) != dark
    page.reload()
    page.get_by_text("50 of 61").wait_for()
    assert page.evaluate(ground) != dark
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("Key").wait_for()
    assert page.evaluate("sessionStorage.length") == 0


def test_headers(start: StartGateway, stub: Stub) -> None:
    url = start(upstream=stub.url)
    for name, kind in (("", "text/html"), ("page.js", "text/javascript"), ("page.css", "text/css")):
        answer = get(f"{url}/admin/{name}")
        assert answer.headers["content-type"].startswith(kind)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert get(url + "/admin/nothing.js").status_code == 404
