"""What operators learn: spans, logs, counts. Never a key, never a text of a request."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest
from gateway_harness import StartGateway, Stub, eventually, get, post

from corrigenda.errors import MissingExtra
from corrigenda.memory.memory import Memory
from corrigenda.middleware.gateway import logs
from corrigenda.middleware.gateway.activity import MINUTES, Activity
from corrigenda.middleware.gateway.keys import Keys
from corrigenda.middleware.gateway.logs import JsonLines, Lines, logging_to, masked
from corrigenda.middleware.gateway.spans import Spans, exporting

PROMPT = "The capital of Kazakhstan is"
BODY = {"messages": [{"role": "user", "content": PROMPT}]}


@pytest.fixture
def edited(memory: Memory) -> Memory:
    memory.add(PROMPT, "Astana", subject="Kazakhstan", relation="capital")
    return memory


def test_spans_say_how_long_and_which_edits(stub: Stub, start: StartGateway, edited: Memory) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    spans = Spans(provider)
    assert spans.on
    url = start(upstream=stub.url, spans=spans)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    post(url + "/v1/chat/completions", json=BODY, headers={"traceparent": parent, "authorization": "Bearer sk-secret1"})
    eventually(lambda: any(span.parent.is_remote for span in kept.get_finished_spans()))
    post(url + "/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hello"}]})
    found = {span.name: span for span in kept.get_finished_spans()[:3]}
    whole = found["POST /v1/chat/completions"]
    assert set(found) == {"POST /v1/chat/completions", "corrigenda.judge", "corrigenda.upstream"}
    assert f"{whole.context.trace_id:032x}" == parent.split("-")[1]
    assert found["corrigenda.judge"].parent.span_id == whole.context.span_id
    assert whole.attributes["corrigenda.outcome"] == "edited"
    assert whole.attributes["corrigenda.edits"] == (edited.live()[0].id,)
    assert whole.attributes["http.response.status_code"] == 200
    said = "".join(span.to_json() for span in kept.get_finished_spans())
    assert all(text not in said for text in ("Kazakhstan", "Astana", "sk-secret1"))
    # The upstream gets the client's own context: what no edit concerns is not ours to change.
    assert dict(stub.seen[0]["headers"])[b"traceparent"] == parent.encode()


def test_spans_are_exported_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "edits")
    provider = exporting()
    assert provider.resource.attributes["service.name"] == "edits"
    provider.shutdown()
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtra, match="opentelemetry"):
        exporting()


class TestLogs:
    @pytest.mark.parametrize("kind", ["text", "json"])
    def test_a_line_for_each_request(
        self, kind: logs.Kind, stub: Stub, start: StartGateway, edited: Memory, keys: Keys
    ) -> None:
        url = start(upstream=stub.url)
        _, key = keys.create("ann", "reader", ["*"])
        stream = io.StringIO()
        with logging_to(kind, stream):
            headers = {"x-corrigenda-key": key, "authorization": "Bearer sk-secret-of-the-client"}
            post(url + "/v1/chat/completions?secret=1", json=BODY, headers=headers)
            eventually(lambda: "POST /v1/chat/completions 200" in stream.getvalue())
            get(url + "/admin/v1/edits", headers={"authorization": f"Bearer {key}"})
            eventually(lambda: "list_edits" in stream.getvalue())
            get(url + "/v1/models", headers={"x-corrigenda-namespace": "other"})
            eventually(lambda: "GET /v1/models 401" in stream.getvalue())
        said = stream.getvalue()
        assert all(text not in said for text in ("Kazakhstan", "Astana", "sk-secret", "secret=1", key.split("_", 2)[2]))
        if kind == "text":
            assert "POST /v1/chat/completions 200 id=" in said
            return
        rows = [json.loads(line) for line in said.splitlines()]
        asked, admin, refused = (
            row for row in rows if row["logger"] in ("corrigenda.access", "corrigenda.gateway.admin")
        )
        assert (asked["outcome"], asked["status"], asked["namespace"]) == ("edited", 200, "default")
        assert asked["fired"] == [edited.live()[0].id]
        assert 0 < asked["overhead"] <= asked["milliseconds"]
        assert (admin["operation"], admin["status"]) == ("list_edits", 200)
        assert (refused["outcome"], refused["status"]) == ("refused", 401)

    def test_loggers_are_put_back(self) -> None:
        logger = logging.getLogger("corrigenda")
        before = (logger.handlers[:], logger.propagate, logger.level)
        with pytest.raises(RuntimeError), logging_to("json", io.StringIO()):
            raise RuntimeError
        assert (logger.handlers[:], logger.propagate, logger.level) == before

    def test_whatever_looks_like_a_key_is_blotted_out(self) -> None:
        key = "ck_0123456789ab_" + "x" * 43
        assert masked(f"{key} Bearer abc.def sk-0123456789abcdef") == "ck_0123456789ab_*** Bearer *** sk-***"
        record = logging.LogRecord("a", logging.INFO, "f", 1, "key %s", (key,), None)
        record.fields = {"key": key, "n": 1}
        for formatter in (Lines(), JsonLines()):
            assert "xxx" not in formatter.format(record)


def test_activity_counts_by_the_minute() -> None:
    now = [6000.0]
    activity = Activity(clock=lambda: now[0])
    activity.record("a", "edited", ["e1", "e2"])
    now[0] += 60
    activity.record("a", "edited", ["e1"])
    activity.record("b", "early_exit")
    rows = activity.rows("a")
    assert list(rows["minutes"]) == ["edited"]
    assert rows["minutes"]["edited"][-2:] == [1, 1]
    assert len(rows["minutes"]["edited"]) == MINUTES
    assert rows["fired"] == [{"edit": "e1", "times": 2}, {"edit": "e2", "times": 1}]
    now[0] += 60 * MINUTES
    activity.record("a", "local")
    assert list(activity.rows("a")["minutes"]) == ["local"]
    assert activity.rows("nobody") == {"minutes": {}, "fired": []}


def test_the_trace_may_stand_in_the_answer(stub: Stub, start: StartGateway, edited: Memory) -> None:
    from corrigenda.middleware.gateway.settings import Settings

    url = start(Settings(trace_body=True), upstream=stub.url)
    answer = post(url + "/v1/chat/completions", json=BODY)
    assert answer.json()["corrigenda"]["fired"][0]["edit"] == edited.live()[0].id
    assert int(answer.headers["content-length"]) == len(answer.content)
    aside = post(url + "/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hello"}]})
    assert aside.content == stub.chunks[0]
    for kind, chunks in ((b"text/event-stream", [b"data: 1\n\n"]), (b"application/json", [b"{broken"])):
        stub.headers, stub.chunks = [(b"content-type", kind)], chunks
        assert post(url + "/v1/chat/completions", json=BODY).content == chunks[0]


def test_an_answer_that_a_strategy_knows_is_given_without_the_upstream(
    stub: Stub, start: StartGateway, edited: Memory
) -> None:
    from corrigenda.middleware.gateway.settings import Settings
    from corrigenda.middleware.strategies.base import Plan

    class Knows:
        name = "knows"

        def plan(self, request: Any, edits: Any, **room: Any) -> Plan:
            return Plan(request, strategy=self.name, answer=edits[0].edit.target)

    url = start(Settings(trace_body=True), upstream=stub.url, strategy=Knows())
    answer = post(url + "/v1/chat/completions", json={**BODY, "model": "m"}).json()
    assert (answer["choices"][0]["message"]["content"], answer["model"]) == ("Astana", "m")
    assert answer["corrigenda"]["strategy"] == "knows"
    streamed = post(url + "/v1/chat/completions", json={**BODY, "stream": True})
    assert '"content":"Astana"' in streamed.text
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert post(url + "/v1/completions", json={"prompt": PROMPT}).json()["choices"][0]["text"] == "Astana"
    assert stub.seen == []
