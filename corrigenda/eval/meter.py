"""What a run costs: wall time, memory, energy."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

_POWERCAP = Path("/sys/class/powercap")


class Meter:
    """Started when it is made; :meth:`read` tells what was used since (memory: by the process so far)."""

    def __init__(self, powercap: Path = _POWERCAP) -> None:
        self._powercap = powercap
        self._began = time.perf_counter()
        self._energy = _microjoules(powercap)

    def read(self) -> dict[str, Any]:
        """Return seconds, memory in 10⁶ bytes, and joules; ``None`` for what cannot be read here.

        Energy is that of the processor packages (RAPL), whatever else runs on them; its counters are readable by the
        superuser only on most machines.
        """
        peak, device = peak_memory_mb(), peak_device_memory_mb()
        return {
            "wall_seconds": round(time.perf_counter() - self._began, 3),
            "peak_memory_mb": None if peak is None else round(peak, 1),
            "peak_device_memory_mb": None if device is None else round(device, 1),
            "energy_joules": self._joules(),
        }

    def _joules(self) -> float | None:
        now = _microjoules(self._powercap)
        used = 0.0
        for name, (before, most) in self._energy.items():
            if name not in now:
                return None
            used += (now[name][0] - before) % most  # the counter starts again at its maximum
        return round(used / 1e6, 1) if self._energy else None


def _microjoules(folder: Path) -> dict[str, tuple[int, int]]:
    """Return counter and range of every processor package, by name; empty where they cannot be read."""
    found = {}
    for package in sorted(folder.glob("intel-rapl:*")):
        if package.name.count(":") == 1:
            try:
                counter = int((package / "energy_uj").read_text())
                found[package.name] = (counter, int((package / "max_energy_range_uj").read_text()))
            except (OSError, ValueError):
                return {}
    return found


def peak_memory_mb() -> float | None:
    """Return the largest resident set of this process so far, in 10⁶ bytes; ``None`` where it cannot be read."""
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset / 1e6)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def peak_device_memory_mb() -> float | None:
    """Return the largest memory that torch allocated on an accelerator, in 10⁶ bytes; ``None`` without one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return float(torch.cuda.max_memory_allocated() / 1e6)
