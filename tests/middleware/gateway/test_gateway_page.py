"""The admin page in a real browser, by keyboard where people use one."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_harness import Printer, StartGateway, Stub, get, post

from corrigenda.memory.memory import Memory
from corrigenda.middleware.gateway.keys import Keys

sync_api = pytest.importorskip("playwright.sync_api")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
    # The browser's driver leaves its pipes to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
# A second is what is promised; a machine on which everything takes ten times as long is not what is tested.
PATIENCE = 1.0 if os.environ.get("STRICT_TIMES") else 10.0
PROMPT = "The capital of Kazakhstan is"
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
        saved = time.perf_counter()
        # A client that was connected all along gets the new answer within a second, page or no page.
        while "Astana" not in stub.last["body"].decode():
            client.post("/v1/chat/completions", json=body)
            assert time.perf_counter() - saved < PATIENCE
        page.get_by_role("cell", name="Astana").wait_for()
        assert [(edit.target, edit.author) for edit in memory.live()] == [("Astana", "ann")]

    page.get_by_label("A question a user might ask").fill("The capital of Kazakhstan is")
    page.keyboard.press("Enter")
    page.locator("#explained .fires").wait_for()
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


def test_ledger_rollback_conflicts_activity_and_jobs(
    page: Any, start: StartGateway, stub: Stub, keys: Keys, memory: Memory
) -> None:
    stub.chunks = [b'{"data":[{"id":"m"}],"choices":[{"message":{"content":"It is Almaty."}}]}']
    memory.add("The capital of Kazakhstan is", "Almaty", subject="Kazakhstan", relation="capital")
    memory.add(
        "The capital of Kazakhstan is", "Astana", subject="Kazakhstan", relation="capital", on_conflict="coexist"
    )
    url = start(upstream=stub.url, consolidator=Printer())
    _, key = keys.create("ann", "admin", ["*"])
    post(url + "/v1/chat/completions", json={"messages": [{"role": "user", "content": "Kazakhstan?"}]})
    page.goto(url + "/admin/")
    page.get_by_label("Key").fill(key)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Conflicts").wait_for()
    page.locator("#conflict-list").get_by_role("button", name="Retract").first.click()
    page.get_by_label("Why").fill("wrong")
    page.keyboard.press("Enter")
    page.get_by_text("1 of 1").wait_for()
    page.locator("#conflicts").wait_for(state="hidden")

    page.get_by_label("A question a user might ask").fill("The capital of Kazakhstan is")
    page.get_by_role("button", name="Ask the model").click()
    page.locator("#answers").get_by_text("It is Almaty.").first.wait_for()
    page.get_by_role("button", name="New edit").click()
    page.get_by_label("Prompt or question").fill("The capital of Peru is")
    page.get_by_label("New answer").fill("Cusco")
    page.get_by_role("button", name="What would the model say?").click()
    page.locator("#preview-answers").get_by_text("It is Almaty.").first.wait_for()
    page.keyboard.press("Escape")

    # The views are tabs: arrow keys go from one to the next.
    page.get_by_role("tab", name="Edits").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#ledger tr").nth(2).wait_for()
    assert page.locator("#ledger tr td:nth-child(2)").all_text_contents() == ["retracted", "added", "added"]
    page.get_by_role("button", name="Roll back to here").nth(1).click()
    page.keyboard.press("Enter")
    page.get_by_text("1 restored").wait_for()
    assert len(memory.live()) == 2

    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Activity").click()
    page.locator("#days rect").first.wait_for()
    assert "requests a minute" in page.locator("#requests svg").get_attribute("aria-label")

    page.get_by_role("tab", name="Jobs").click()
    page.get_by_role("button", name="Print edits into the weights").click()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Roll back").click()
    page.locator("#confirm").get_by_role("button", name="Roll back").click()
    page.locator("#jobs").get_by_text("roll back done").wait_for()
    page.get_by_label("Queries that concern no edit").fill("How many legs has a horse?\nWhat is 2 + 2?")
    page.get_by_label("Share of them that may fire").fill("0.4")
    page.get_by_role("button", name="Calibrate").click()
    page.locator("#jobs").get_by_text("bounds false fires at 0.4").wait_for()


def test_headers(start: StartGateway, stub: Stub) -> None:
    url = start(upstream=stub.url)
    for name, kind in (
        ("", "text/html"),
        ("page.js", "text/javascript"),
        ("charts.js", "text/javascript"),
        ("page.css", "text/css"),
    ):
        answer = get(f"{url}/admin/{name}")
        assert answer.headers["content-type"].startswith(kind)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert get(url + "/admin/nothing.js").status_code == 404
