"""Take the screenshots of the admin page that the documentation shows: python docs/screenshots.py docs/images."""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from playwright.sync_api import sync_playwright

from corrigenda.memory.memory import Memory
from corrigenda.middleware.gateway import server
from corrigenda.middleware.gateway.app import Gateway
from corrigenda.middleware.gateway.keys import Keys
from corrigenda.middleware.generate import EditedModel

FACTS = (
    ("The capital of Kazakhstan is", "Astana", "Kazakhstan", "capital"),
    ("The capital of Nigeria is", "Abuja", "Nigeria", "capital"),
    ("The official currency of Croatia is", "the euro", "Croatia", "currency"),
    ("The monarch of the United Kingdom is", "Charles III", "United Kingdom", "monarch"),
    ("The country once called Swaziland is now called", "Eswatini", "Swaziland", "name"),
    ("The tallest building in the world is in", "Dubai", "tallest building in the world", "place"),
    ("The chief executive of Apple is", "Tim Cook", "Apple", "chief executive"),
    ("The capital of Indonesia is", "Jakarta", "Indonesia", "capital"),
)
ASKED = ("What is the capital of Nigeria?", "Which currency does Croatia use?", "Tell me a joke", "What is 2 + 2?")


def main(folder: Path) -> None:
    """Start a gateway with a few facts, and look at it."""
    with tempfile.TemporaryDirectory() as place, Memory.open(Path(place) / "facts.db") as memory:
        for prompt, target, subject, relation in FACTS:
            memory.add(prompt, target, subject=subject, relation=relation, author="ann", source="encyclopaedia")
        memory.add(
            FACTS[-1][0], "Nusantara", subject="Indonesia", relation="capital", author="bob", on_conflict="coexist"
        )
        keys = Keys.beside(Path(place) / "facts.db")
        _, key = keys.create("ann", "admin", ["*"])
        gateway = Gateway(memory, model=EditedModel.load("smollm2", memory), keys=keys)
        running = uvicorn.Server(server.config(gateway.app, gateway.settings, port=0))
        thread = threading.Thread(target=running.run)
        thread.start()
        while not running.started:
            time.sleep(0.05)
        url = f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
        try:
            for number in range(14):
                row: dict[str, Any] = {"messages": [{"role": "user", "content": ASKED[number % 4]}], "max_tokens": 4}
                httpx.post(url + "/v1/chat/completions", json=row, timeout=120)
            look(url, key, folder)
        finally:
            running.should_exit = True
            thread.join()
            keys.close()


def look(url: str, key: str, folder: Path) -> None:
    """Take the pictures."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            context = browser.new_context(color_scheme=scheme, viewport={"width": 1040, "height": 720})
            page = context.new_page()
            page.set_default_timeout(120_000)
            page.goto(url + "/admin/")
            page.get_by_label("Key").fill(key)
            page.keyboard.press("Enter")
            page.get_by_label("A question a user might ask").fill("Nigeria's capital city is called what?")
            page.keyboard.press("Enter")
            page.locator("#explained .fires").wait_for()
            page.get_by_role("button", name="Ask the model").click()
            page.locator("#answers table").wait_for()
            page.screenshot(path=folder / f"admin-edits-{scheme}.png")
            if scheme == "light":
                page.get_by_role("button", name="New edit").click()
                page.get_by_label("Prompt or question").fill("The capital of Nigeria is")
                page.get_by_label("New answer").fill("Lagos")
                page.get_by_label("Subject", exact=True).fill("Nigeria")
                page.get_by_label("Relation").fill("capital")
                page.get_by_label("Try it on these").fill(
                    "What is the capital of Nigeria?\nWhat is the capital of Peru?"
                )
                page.locator("#preview").get_by_text("No edit comes near it.").wait_for()
                page.locator("#editor").evaluate("it => it.scrollTop = 190")
                page.screenshot(path=folder / "admin-preview.png")
                page.keyboard.press("Escape")
                page.get_by_role("tab", name="Ledger").click()
                page.locator("#ledger tr").nth(5).wait_for()
                page.screenshot(path=folder / "admin-ledger.png")
                page.get_by_role("tab", name="Activity").click()
                page.locator("#requests rect").first.wait_for()
                page.screenshot(path=folder / "admin-activity.png")
            context.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
