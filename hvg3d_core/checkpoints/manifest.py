# SPDX-License-Identifier: Apache-2.0
"""Hashes of files: what they are when a model is installed, and whether they still are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .registry import ENTRY_FILE, ModelError

MANIFEST = "hvg3d_files.json"
CHUNK = 1 << 22


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob(path: Path) -> str:
    """What git, and so a hub, calls a file that is not kept as a large one: SHA-1 of a header and the content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_manifest(folder: Path, origin: dict[str, Any]) -> None:
    """List every file of ``folder`` with size and hash; ``origin`` says where they come from."""
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    text = json.dumps({"origin": origin, "files": files}, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def verify_folder(folder: Path, report: Callable[[str], None] = lambda line: None) -> list[str]:
    """What is wrong with a model's files, nothing if all is well. ``report`` gets each file's name when it is checked.

    A folder without a list of hashes, one's own for example, is only checked for whole files.
    """
    if not (folder / ENTRY_FILE).is_file():
        return [f"{folder}: {ENTRY_FILE} is missing"]
    listing = folder / MANIFEST
    if not listing.is_file():
        return _check_whole(folder, report)
    try:
        files: dict[str, dict[str, Any]] = json.loads(listing.read_text(encoding="utf-8"))["files"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ModelError(f"{listing}: {error!r}") from None
    wrong = []
    for name, said in files.items():
        path = folder / name
        report(name)
        if not path.is_file():
            wrong.append(f"{name}: missing")
        elif path.stat().st_size != said["size"]:
            wrong.append(f"{name}: {path.stat().st_size} bytes, should be {said['size']}")
        elif (found := sha256(path)) != said["sha256"]:
            wrong.append(f"{name}: SHA-256 {found[:12]}..., should be {said['sha256'][:12]}...")
    return wrong


def _check_whole(folder: Path, report: Callable[[str], None]) -> list[str]:
    """JSON that parses, and safetensors files as long as their headers say."""
    wrong = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix not in (".json", ".safetensors") or not path.is_file():
            continue
        report(name)
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
                continue
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(length, 100_000_000)))
            end = max((t["data_offsets"][1] for k, t in header.items() if k != "__metadata__"), default=0)
            if path.stat().st_size != 8 + length + end:
                wrong.append(f"{name}: {path.stat().st_size} bytes, should be {8 + length + end}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            wrong.append(f"{name}: cannot be read ({error})")
    return wrong
