from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from corrigenda.memory.memory import Memory
from corrigenda.testing import FixedEncoder

WRITER = """
import sys
from corrigenda.memory.memory import Memory
from corrigenda.testing import FixedEncoder
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Memory.open(path, encoder=FixedEncoder()) as memory:
    print("ready", flush=True)
    sys.stdin.readline()
    for i in range(count):
        memory.add(f"The river {i} of {name} is", "R", subject=f"{name} {i}", relation="river")
        memory.add(f"The capital of land {i} is", name, subject=f"land {i}", relation="capital")
"""


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    """Also the creation of the file: neither waits for the other before opening it."""
    path, count = tmp_path / "facts.db", 100
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), name, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("north", "south")
    ]
    with Memory.open(path, encoder=FixedEncoder()) as reader:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n", writer.communicate()
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        for writer in writers:
            _, complaints = writer.communicate(timeout=60)
            assert writer.returncode == 0, complaints
        assert reader.refresh()
        rivers = [edit for edit in reader.live() if edit.relation == "river"]
        capitals = [edit for edit in reader.live() if edit.relation == "capital"]
        assert len(rivers) == 2 * count
        assert len(capitals) == count, "whoever came second superseded the first"
        for edit in capitals:
            kinds = [event.kind for event in reader.history(edit.id)]
            assert kinds == ["added", "amended"]
        assert reader.version == 4 * count
    # One order: every process reads the same events under the same numbers.
    with Memory.open(path, encoder=FixedEncoder(), readonly=True) as again:
        assert again.live() == reader.live()
        assert again.search(again.encoder.encode(["The river 7 of north is"]), 1)[0][0].edit.subject == "north 7"
