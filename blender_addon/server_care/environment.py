# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of a managed installation: what is in it, whether it is whole, and how it is removed.

FOLDER/hvg3d-managed.json   the marker: this folder was made by the add-on, and only then may it be removed
FOLDER/env/                 a virtual environment of its own
FOLDER/cache/               downloads, so that a broken installation goes on where it was; emptied when it is finished
FOLDER/installed.json       written last: what is installed; without it the installation is not finished
FOLDER/install.log
FOLDER/install.lock         held while somebody installs or removes
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .failures import CareError
from .pythons import environment_python

MARKER = "hvg3d-managed.json"
_PURPOSE = "managed installation of the HVG-3D server"
_FINISHED = "installed.json"


@dataclass(frozen=True)
class Installed:
    """What is there, written when all of it was there."""

    version: str
    python: str
    torch: str
    wheel_sha256: str = ""


@dataclass(frozen=True)
class ManagedState:
    """``started``: there is something, perhaps half of it; ``ready``: it can be used."""

    started: bool = False
    installed: Installed | None = None
    problem: str = ""

    @property
    def ready(self) -> bool:
        return self.installed is not None and not self.problem


@dataclass(frozen=True)
class Managed:
    folder: Path

    @property
    def env(self) -> Path:
        return self.folder / "env"

    @property
    def python(self) -> Path:
        return environment_python(self.env)

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def log(self) -> Path:
        return self.folder / "install.log"

    def state(self) -> ManagedState:
        """Looks at two small files."""
        if not self.is_ours():
            return ManagedState()
        try:
            installed = Installed(**json.loads((self.folder / _FINISHED).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return ManagedState(started=True, problem="The installation is not finished")
        if not self.python.exists():  # also a link to a Python that is not there any more
            return ManagedState(True, installed, f"The Python that it was made with ({installed.python}) is gone")
        return ManagedState(True, installed)

    def is_ours(self) -> bool:
        try:
            marker = json.loads((self.folder / MARKER).read_text("utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(marker, dict) and marker.get("what") == _PURPOSE

    def claim(self) -> None:
        """Make the folder this add-on's own. Raises :class:`CareError` for one that holds other things; OSError."""
        if self.is_ours():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        others = [name for name in os.listdir(self.folder) if name not in (MARKER, "install.lock")]
        if others:
            raise CareError(
                "not_ours",
                f"{self.folder} holds other files ({', '.join(sorted(others)[:3])})",
                "Move them away, for the add-on removes only folders that it has made itself",
            )
        write_json(self.folder / MARKER, {"what": _PURPOSE})

    def finish(self, installed: Installed) -> None:
        write_json(self.folder / _FINISHED, asdict(installed))

    def unfinish(self) -> None:
        (self.folder / _FINISHED).unlink(missing_ok=True)

    def remove(self) -> None:
        """All of it, and nothing else: only with the marker, never through a link. Raises :class:`CareError`.

        The marker goes last: a removal that is interrupted can be repeated.
        """
        if not self.folder.exists():
            return
        if self.folder.is_symlink() or not self.is_ours():
            raise CareError(
                "not_ours",
                f"{self.folder} was not made by the add-on (its {MARKER} is missing)",
                "Nothing was removed; remove the folder by hand if it is not needed",
            )
        with contextlib.suppress(OSError):
            self.unfinish()
        failed: list[tuple[str, BaseException]] = []

        def again(function: Any, path: str, error: Any) -> None:
            """Windows refuses to remove what is read-only."""
            try:
                os.chmod(path, stat.S_IRWXU)
                function(path)
            except OSError as second:
                failed.append((path, second))

        handler = {"onexc" if sys.version_info >= (3, 12) else "onerror": again}
        for entry in sorted(self.folder.iterdir(), key=lambda entry: entry.name == MARKER):
            if entry.name in (MARKER, "install.lock"):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, **handler)  # type: ignore[arg-type]
            else:
                entry.unlink(missing_ok=True)
        if failed:
            path, reason = failed[0]
            raise CareError(
                "in_the_way",
                f"{path} cannot be removed: {getattr(reason, 'strerror', reason)}",
                "Stop every server that runs from there, then remove it again",
            )
        for name in ("install.lock", MARKER):
            with contextlib.suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def size(self) -> int:
        """Bytes on the disk. Takes a second or two for a whole environment."""
        return sum(_sizes(self.folder))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Held until the block, or the process, ends. Raises :class:`CareError` if another Blender holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = open(self.folder / "install.lock", "a+b")  # noqa: SIM115 - closed below: that is the lock
        try:
            try:
                if sys.platform == "win32":
                    import msvcrt

                    file.seek(0)
                    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                else:
                    import fcntl

                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CareError(
                    "locked", "Another Blender is installing or removing the server", "Wait until it is finished"
                ) from None
            yield
        finally:
            file.close()

    def mend(self) -> list[str]:
        """Forget packages that are there in part, so that pip installs them again. Their names.

        A killed pip leaves a package without its list of files, or with files missing or cut short.
        """
        broken = []
        for folder in self._site_packages():
            for leftover in folder.glob("~*"):  # what pip has moved aside
                shutil.rmtree(leftover, ignore_errors=True)
            for info in folder.glob("*.dist-info"):
                if not _whole(folder, info):
                    broken.append(info.name.removesuffix(".dist-info"))
                    shutil.rmtree(info, ignore_errors=True)
        return broken

    def packages(self) -> dict[str, str]:
        """Name (normalised) and version of every package that is there."""
        found = {}
        for folder in self._site_packages():
            for info in folder.glob("*.dist-info"):
                name, _, version = info.name.removesuffix(".dist-info").rpartition("-")
                found[normal(name)] = version
        return found

    def _site_packages(self) -> list[Path]:
        pattern = "Lib/site-packages" if os.name == "nt" else "lib/python3.*/site-packages"
        return list(self.env.glob(pattern))


def _whole(folder: Path, info: Path) -> bool:
    try:
        with open(info / "RECORD", newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    if not (info / "METADATA").is_file():
        return False
    for row in rows:
        if len(row) < 3 or not row[2].isdecimal() or row[0].endswith(".pyc"):
            continue
        try:
            if (folder / row[0]).stat().st_size != int(row[2]):
                return False
        except OSError:
            return False
    return True


def normal(name: str) -> str:
    """A package's name as pip compares it."""
    return name.lower().replace("_", "-").replace(".", "-")


def write_json(path: Path, value: Any) -> None:
    """In one go: after a power cut the file is there as a whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _sizes(folder: Path) -> Iterator[int]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(Path(entry.path))
            else:
                with contextlib.suppress(OSError):
                    yield entry.stat(follow_symlinks=False).st_size
