"""The admin API: edits, history, explanations, keys; and who may do what."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator

import httpx
import pytest
from gateway_harness import StartGateway, get
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corrigenda.memory.memory import Memory
from corrigenda.middleware.gateway.admin.table import OPERATIONS
from corrigenda.middleware.gateway.keys import Keys
from corrigenda.middleware.gateway.settings import Settings

CAPITAL = {"prompt": "The capital of Kazakhstan is", "target": "Astana", "subject": "Kazakhstan", "relation": "capital"}
As = Callable[..., httpx.Client]


@pytest.fixture
def as_role(start: StartGateway, keys: Keys) -> Iterator[As]:
    """Return a function that returns a client with a key of a role."""
    url = start(Settings(rate=1000, burst=1000), upstream="http://127.0.0.1:1")

    def client(role: str = "admin", *namespaces: str, name: str = "ann") -> httpx.Client:
        _, key = keys.create(name, role, namespaces or ["*"])
        headers = {"authorization": f"Bearer {key}"}
        return stack.enter_context(httpx.Client(base_url=url + "/admin/v1", headers=headers, timeout=60))

    with contextlib.ExitStack() as stack:
        yield client


def test_the_life_of_an_edit(as_role: As, memory: Memory) -> None:
    api = as_role("editor", "default")
    made = api.post("/edits", json=CAPITAL)
    assert made.status_code == 201
    edit_id = made.json()["edit"]["id"]
    assert [edit.target for edit in memory.live()] == ["Astana"]
    assert memory.live()[0].author == "ann"
    amended = api.patch(f"/edits/{edit_id}", json={"target": "Nur-Sultan", "reason": "renamed"}).json()
    assert amended["version"] == 2
    listed = api.get("/edits", params={"q": "kazakh SULTAN"}).json()
    assert [edit["id"] for edit in listed["edits"]] == [amended["edit"]["id"]]
    assert api.get("/edits", params={"q": "nothing"}).json()["total"] == 0
    assert api.get(f"/edits/{edit_id}").json()["live"] is False
    assert api.delete(f"/edits/{amended['edit']['id']}", params={"reason": "wrong"}).status_code == 200
    events = api.get(f"/edits/{edit_id}/history").json()["events"]
    assert [(event["kind"], event["author"]) for event in events] == [
        ("added", "ann"),
        ("amended", "ann"),
        ("retracted", "ann"),
    ]
    assert [event.get("reason") for event in events] == [None, "renamed", "wrong"]
    again = api.delete(f"/edits/{amended['edit']['id']}")
    assert (again.status_code, again.json()["error"]["code"]) == (404, "unknown_edit")


def test_conflicts_by_rule(as_role: As) -> None:
    api = as_role()
    api.post("/edits", json=CAPITAL)
    refused = api.post("/edits", json={**CAPITAL, "target": "Almaty", "on_conflict": "refuse"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflicting_edit")
    assert api.post("/edits", json={**CAPITAL, "target": "Almaty"}).status_code == 201
    assert api.get("/edits").json()["total"] == 1


def test_explain_and_preview(as_role: As) -> None:
    api = as_role()
    added = api.post("/edits", json=CAPITAL).json()["edit"]["id"]
    row = api.post("/explain", json={"queries": ["The capital of Kazakhstan is", "Water boils at"]}).json()
    assert [item["fires"] for item in row["considered"]] == [[added], []]
    edit = {**CAPITAL, "target": "Almaty"}
    preview = api.post("/preview", json={**edit, "queries": ["The capital of Kazakhstan is", "Water boils"]}).json()
    assert [len(item["fires"]) for item in preview["considered"]] == [1, 0]
    assert [other["id"] for other in preview["contradicts"]] == [added]
    assert api.get("/edits").json()["total"] == 1
    assert api.post("/ask", json={"prompt": "x"}).status_code == 502  # nobody is at the upstream


def test_import_export_and_rollback(as_role: As, memory: Memory) -> None:
    api = as_role("admin", "*")
    lines = "\n".join(json.dumps({"prompt": f"The colour of thing{n} is", "target": "red"}) for n in range(5))
    report = api.post("/import", content=lines, params={"namespace": "shop"}).json()
    assert (report["added"], report["unchanged"]) == (5, 0)
    bad = api.post("/import", content=lines + "\n{", params={"namespace": "shop"})
    assert (bad.status_code, list(bad.json()["error"]["bad_lines"])) == (422, ["6"])
    skipped = api.post("/import", content=lines + "\n{", params={"namespace": "shop", "on_error": "skip"}).json()
    assert (skipped["added"], skipped["unchanged"], list(skipped["bad_lines"])) == (0, 5, ["6"])
    exported = api.get("/export", params={"namespace": "shop"})
    assert exported.headers["content-type"] == "application/jsonl"
    assert len(exported.text.splitlines()) == 5
    back = api.post("/rollback", json={"namespace": "shop", "version": 2}).json()
    assert (back["retracted"], back["restored"]) == (3, 0)
    assert len(memory.live("shop")) == 2
    forth = api.post("/rollback", json={"namespace": "shop", "version": 5}).json()
    assert (forth["retracted"], forth["restored"]) == (0, 3)
    assert {edit.author for edit in memory.live("shop")} == {"ann"}
    assert api.post("/rollback", json={"version": 10**6}).status_code == 422


def test_keys(as_role: As, keys: Keys) -> None:
    api = as_role()
    made = api.post("/keys", json={"name": "bob", "role": "reader", "namespaces": ["a"]}).json()
    assert keys.find(made["key"]).name == "bob"  # type: ignore[union-attr]
    listed = api.get("/keys")
    assert made["key"] not in listed.text
    assert {key["name"] for key in listed.json()["keys"]} == {"ann", "bob"}
    assert "revoked" in api.delete(f"/keys/{made['id']}").json()
    assert keys.find(made["key"]) is None
    assert api.delete("/keys/nope").status_code == 404
    assert api.post("/keys", json={"name": "x", "role": "king", "namespaces": ["a"]}).status_code == 422
    assert as_role("admin", "a").get("/keys").status_code == 403


def test_roles(as_role: As) -> None:
    edit_id = as_role().post("/edits", json=CAPITAL).json()["edit"]["id"]
    reader, editor = as_role("reader", "default"), as_role("editor", "default")
    assert reader.get("/edits").status_code == 200
    assert reader.get("/status").json()["key"]["role"] == "reader"
    for method, path, body in (
        ("POST", "/edits", CAPITAL),
        ("PATCH", f"/edits/{edit_id}", {"target": "x"}),
        ("DELETE", f"/edits/{edit_id}", None),
        ("POST", "/import", None),
        ("POST", "/rollback", {"version": 0}),
        ("GET", "/keys", None),
    ):
        assert reader.request(method, path, json=body).status_code == 403, path
    assert editor.post("/rollback", json={"version": 0}).status_code == 403


def test_no_key_no_answer(as_role: As, start: StartGateway, keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="corrigenda")
    api = as_role()
    key, text = keys.create("eve", "admin", ["*"])
    keys.revoke(key.id)
    wrong = text[:-1] + ("A" if text[-1] != "A" else "B")
    for header in ("", f"Bearer {text}", f"Bearer {wrong}", "Basic abc", "Bearer", f"Bearer ck_{'0' * 12}_{'x' * 43}"):
        for operation in OPERATIONS[:2]:
            answer = httpx.request(
                operation.method, str(api.base_url).rstrip("/") + operation.path, headers={"authorization": header}
            )
            assert answer.status_code in (401, 429)
    keyless = start(keys=None, upstream="http://127.0.0.1:1")
    assert get(keyless + "/admin/v1/edits", headers={"authorization": f"Bearer {text}"}).status_code == 401
    api.get("/edits")
    assert text not in caplog.text
    assert text.split("_", 2)[2] not in caplog.text  # a secret may hold underscores of its own


def test_rates(start: StartGateway, keys: Keys) -> None:
    url = start(Settings(rate=0.5, burst=3), upstream="http://127.0.0.1:1")
    _, key = keys.create("ann", "reader", ["*"])
    answers = [get(url + "/admin/v1/status", headers={"authorization": f"Bearer {key}"}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert int(answers[-1].headers["retry-after"]) >= 1
    with httpx.Client() as client:  # one connection: guesses come faster than they are forgiven, on a busy machine too
        guesses = [client.get(url + "/admin/v1/status").status_code for _ in range(60)]
    assert guesses[0] == 401
    assert 429 in guesses


def test_what_is_malformed_is_refused(as_role: As) -> None:
    api = as_role()
    edit_id = api.post("/edits", json=CAPITAL).json()["edit"]["id"]
    for method, path, content, status in (
        ("POST", "/edits", b"{", 400),
        ("POST", "/edits", b"[]", 400),
        ("POST", "/edits", b'{"prompt": NaN}', 400),
        ("POST", "/edits", b"\xff", 400),
        ("POST", "/edits", b"[" * 100_000, 400),
        ("POST", "/edits", b"{}", 422),
        ("POST", "/edits", b'{"prompt": 5, "target": "x"}', 422),
        ("POST", "/edits", b'{"prompt": "x", "target": "y", "author": "me"}', 422),
        ("POST", "/edits", b'{"prompt": "x", "target": "y", "aliases": "z"}', 422),
        ("POST", "/edits", b'{"prompt": "x\\u0000", "target": "y"}', 422),
        ("POST", "/edits", b'{"prompt": "\\ud800", "target": "y"}', 422),
        ("POST", "/edits", b'{"prompt": "x", "target": "y", "valid_from": "soon"}', 422),
        ("POST", "/edits", b'{"prompt": "x", "target": "y", "on_conflict": "fight"}', 422),
        ("PATCH", f"/edits/{edit_id}", b"{}", 422),
        ("POST", "/explain", b'{"queries": []}', 422),
        ("GET", "/edits?limit=x", b"", 422),
        ("GET", "/edits?limit=5&limit=6", b"", 400),
        ("GET", "/edits?other=5", b"", 400),
        ("GET", "/edits?q=%ff", b"", 400),
        ("GET", "/edits", b"x", 400),
        ("GET", f"/edits/{edit_id[:8]}", b"", 404),
        ("GET", "/edits/", b"", 404),
        ("GET", "/nothing", b"", 404),
        ("PUT", "/edits", b"", 405),
    ):
        answer = api.request(method, path, content=content)
        assert answer.status_code == status, (path, content[:50], answer.text)
        assert answer.json()["error"]["code"]


SPACES = ("red", "green", "blue")


@pytest.fixture
def owners(as_role: As) -> dict[str, httpx.Client]:
    """Return one client per namespace, which owns it and has a secret there."""
    clients = {name: as_role("admin", name, name=name) for name in SPACES}
    for name, client in clients.items():
        client.post("/edits", json={**CAPITAL, "target": f"secret of {name}", "namespace": name})
    return clients


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nothing_is_read_or_written_across_namespaces(
    owners: dict[str, httpx.Client], memory: Memory, data: st.DataObject
) -> None:
    mine = data.draw(st.sampled_from(SPACES))
    other = data.draw(st.sampled_from([name for name in SPACES if name != mine]))
    theirs = data.draw(st.sampled_from([edit.id for edit in memory.live(other)]))
    before = {name: memory.live(name) for name in SPACES if name != mine}
    method, path, body = data.draw(
        st.sampled_from(
            [
                ("GET", f"/edits?namespace={other}", None),
                ("GET", "/edits", None),
                ("GET", f"/edits/{theirs}", None),
                ("GET", f"/edits/{theirs}/history", None),
                ("GET", f"/export?namespace={other}", None),
                ("GET", f"/edits?namespace={mine}&q=secret", None),
                ("GET", "/status", None),
                ("POST", "/edits", {**CAPITAL, "namespace": other}),
                ("POST", "/edits", {**CAPITAL, "target": data.draw(st.text("abc", min_size=1)), "namespace": mine}),
                ("PATCH", f"/edits/{theirs}", {"target": "stolen"}),
                ("DELETE", f"/edits/{theirs}", None),
                ("POST", "/explain", {"queries": ["The capital of Kazakhstan is"], "namespace": other}),
                ("POST", "/explain", {"queries": ["The capital of Kazakhstan is"], "namespace": mine}),
                ("POST", "/preview", {**CAPITAL, "queries": ["x"], "namespace": other}),
                ("POST", "/rollback", {"version": 0, "namespace": other}),
                ("POST", f"/import?namespace={other}", None),
                ("GET", "/keys", None),
                ("GET", f"/events?namespace={other}", None),
                ("GET", f"/events?namespace={mine}", None),
                ("GET", f"/conflicts?namespace={other}", None),
                ("GET", f"/activity?namespace={other}", None),
                ("GET", f"/jobs?namespace={other}", None),
                ("GET", f"/consolidations?namespace={other}", None),
                ("POST", "/feedback", {"query": "x", "clarification": "y", "namespace": other}),
                ("POST", "/calibrate", {"queries": ["The capital of Kazakhstan is"], "namespace": other}),
                ("POST", "/consolidations", {"namespace": other}),
                ("POST", "/ask", {"prompt": "The capital of Kazakhstan is", "namespace": other}),
            ]
        )
    )
    answer = owners[mine].request(method, path, json=body)
    assert f"secret of {other}" not in answer.text
    assert {name: memory.live(name) for name in before} == before
