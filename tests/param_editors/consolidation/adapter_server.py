"""A model server over transformers and peft, with the endpoints through which vLLM takes adapters while it runs.

Its answers have the forms and status codes of vLLM's (docs: "Dynamically serving LoRA Adapters").
"""

from __future__ import annotations

import json
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import peft
import torch
import transformers


class AdapterServer:
    """Serves a base model and adapters of it on a free port of this machine; use in a ``with`` block.

    Args:
        base: Folder of the base model.
        max_rank: Adapters of a higher rank are refused, as by ``--max-lora-rank``.
    """

    name = "base"

    def __init__(self, base: Path, *, max_rank: int = 64) -> None:
        self.max_rank = max_rank
        self.words = transformers.AutoTokenizer.from_pretrained(base)
        self.base = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        self.model: Any = None
        self.roots: dict[str, str] = {}
        self.log: list[str] = []
        self.lock = threading.Lock()

    def __enter__(self) -> AdapterServer:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                rows = [{"id": server.name, "root": server.name}]
                rows += [{"id": name, "root": root, "parent": server.name} for name, root in server.roots.items()]
                self.answer(200, {"object": "list", "data": rows} if self.path == "/v1/models" else {})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    self.answer(*server.post(self.path, body))

            def answer(self, status: int, row: Any) -> None:
                data = (row if isinstance(row, str) else json.dumps(row)).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        self.log.append(f"{path} {body.get('lora_name', body.get('model'))}")
        if path == "/v1/load_lora_adapter":
            return self.load(body["lora_name"], body["lora_path"])
        if path == "/v1/unload_lora_adapter":
            if self.roots.pop(body["lora_name"], None) is None:
                return 404, error("NotFoundError", f"The lora adapter '{body['lora_name']}' cannot be found.")
            return 200, f"Success: LoRA adapter '{body['lora_name']}' removed successfully."
        if body["model"] not in (self.name, *self.roots):
            return 404, error("NotFoundError", f"The model `{body['model']}` does not exist.")
        prompt = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        text = self.complete(body["model"], prompt, body.get("max_tokens", 4))
        part = {"text": text} if "prompt" in body else {"message": {"role": "assistant", "content": text}}
        choice = {"index": 0, "finish_reason": "stop", **part}
        return 200, {"id": "x", "object": "text_completion", "model": body["model"], "choices": [choice]}

    def load(self, name: str, path: str) -> tuple[int, Any]:
        if name in self.roots:
            return 400, error("InvalidUserInput", f"The lora adapter '{name}' has already been loaded.")
        try:
            rank = json.loads((Path(path) / "adapter_config.json").read_text())["r"]
        except OSError as failure:
            return 404, error("NotFoundError", str(failure))
        if rank > self.max_rank:
            return 400, error("BadRequestError", f"LoRA rank {rank} is greater than max_lora_rank {self.max_rank}.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.model is None:
                self.model = peft.PeftModel.from_pretrained(self.base, path, adapter_name=key(name))
            else:
                self.model.load_adapter(path, adapter_name=key(name))
        self.roots[name] = path
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def complete(self, name: str, prompt: str, tokens: int) -> str:
        ids = self.words(prompt, return_tensors="pt").input_ids
        options = {"max_new_tokens": tokens, "do_sample": False, "attention_mask": torch.ones_like(ids)}
        if self.model is None:
            out = self.base.generate(input_ids=ids, **options)
        elif name == self.name:
            with self.model.disable_adapter():
                out = self.model.generate(input_ids=ids, **options)
        else:
            self.model.set_adapter(key(name))
            out = self.model.generate(input_ids=ids, **options)
        return str(self.words.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def key(name: str) -> str:
    """Torch's module names hold no dots."""
    return name.replace(".", "_")


def error(kind: str, message: str) -> dict[str, Any]:
    """vLLM's form of an error."""
    return {"error": {"message": message, "type": kind}}
