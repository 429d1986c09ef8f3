# SPDX-License-Identifier: Apache-2.0
"""Bring models to this machine, check them, take them away again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import download
from .licences import accept, accepted_licences
from .manifest import MANIFEST, verify_folder, write_manifest
from .pipeline_folder import link_or_copy
from .registry import (
    ENTRY_FILE,
    ModelEntry,
    ModelError,
    Source,
    catalogue,
    find_model,
    installed_folder,
    known_ids,
    models_home,
    read_entry,
)

Report = Callable[[str], None]


def source_of(model_id: str) -> Source:
    """The catalogue's entry. Raises ModelError that lists those there are."""
    source = catalogue().get(model_id)
    if source is None:
        if model_id == "nano":
            raise ModelError("nano: it is shipped with this package, there is nothing to fetch")
        raise ModelError(f"model {model_id!r} is not known: there are {', '.join(catalogue())}")
    return source


def downloads_folder(source: Source) -> Path:
    """Where the files of a repository come to; shared by the models made of it."""
    return models_home() / ".downloads" / source.repository.replace("/", "--")


def pull(
    model_id: str,
    *,
    accept_licence: Callable[[Source], bool],
    local: Path | None = None,
    mirror: str | None = None,
    offline: bool = False,
    force: bool = False,
    keep_download: bool = False,
    tracking_range: str = "minus_one_one",
    report: Report = lambda line: None,
) -> ModelEntry:
    """Fetch a catalogued model and make it ready. Called again after anything went wrong, it goes on.

    accept_licence: asked unless the licence has been agreed to before; says whether the person agrees. local: a folder
    with the repository's files, in place of the hub. mirror: another hub's address. offline: use only what has been
    downloaded already. force: also where the model is installed. keep_download: leave the files as they came, too.
    Raises ModelError.
    """
    source = source_of(model_id)
    if installed_folder(model_id) is not None and not force:
        report(f"{model_id} is here already ({installed_folder(model_id)}); --force fetches it again")
        return find_model(model_id)
    if source.licence.name not in accepted_licences():
        if not accept_licence(source):
            raise ModelError(f"{model_id}: nothing is fetched before its licence is accepted (--accept-licence)")
        accept(source.licence)
    with _only_one(model_id):
        folder, origin = _files(source, local, mirror, offline or download.is_offline(), report)
        report("making it ready ...")
        target = models_home() / model_id
        ready = target.with_name(f".{model_id}.new")
        shutil.rmtree(ready, ignore_errors=True)
        _make(source, folder, ready, tracking_range)
        write_manifest(ready, origin)
        read_entry(ready, model_id)
        shutil.rmtree(target, ignore_errors=True)
        ready.rename(target)
        if not keep_download and local is None:
            shutil.rmtree(downloads_folder(source), ignore_errors=True)
    return find_model(model_id)


def _files(
    source: Source, local: Path | None, mirror: str | None, offline: bool, report: Report
) -> tuple[Path, dict[str, Any]]:
    """A folder that has the repository's files, and where they are from."""
    if local is not None:
        if not local.is_dir():
            raise ModelError(f"{local}: no such folder")
        return local, {"folder": str(local.absolute())}
    folder = downloads_folder(source)
    origin: dict[str, Any] = {"repository": source.repository}
    if offline:
        return _offline(source, folder), origin
    listing = download.list_files(source.repository, source.revision, source.files, mirror)
    report(f"{source.repository} at {listing.commit[:12]}: {len(listing.files)} files, {listing.bytes / 1e9:.2f} GB")
    network = sum(file.size for file in listing.files if file.name.startswith("transformer/"))
    made = {"das": network, "hvg3d": network * 3 // 2, "": 0}[source.convert]
    download.download(listing, folder, mirror, extra_bytes=made, report=report)
    (folder / "complete").write_text(listing.commit, encoding="utf-8")
    return folder, origin | {"revision": listing.commit, "mirror": mirror}


def _offline(source: Source, folder: Path) -> Path:
    if (folder / "complete").is_file():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = snapshot_download(
            source.repository, revision=source.revision, allow_patterns=list(source.files), local_files_only=True
        )
    except (LocalEntryNotFoundError, FileNotFoundError):
        raise ModelError(
            f"{source.id}: offline, and {source.repository} is not on this machine as a whole; go online, or name a "
            "folder that has its files (--from)"
        ) from None
    return Path(cached)


def _make(source: Source, folder: Path, out: Path, tracking_range: str) -> None:
    """The pipeline folder of the repository's files."""
    if source.convert:
        from .convert_das import convert_das

        convert_das(folder, out, seed_hvg3d=source.convert == "hvg3d", tracking_range=tracking_range)
        return
    if not (folder / ENTRY_FILE).is_file():
        raise ModelError(f"{folder}: {ENTRY_FILE} is missing, so this is not a model of ours")
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if (
            path.is_file()
            and not path.name.endswith(download.PART)
            and inside.as_posix()
            not in (
                download.STATE,
                "complete",
                MANIFEST,
            )
        ):
            link_or_copy(path, out / inside)


@contextmanager
def _only_one(model_id: str) -> Iterator[None]:
    from filelock import FileLock, Timeout

    locks = models_home() / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    source = catalogue().get(model_id)
    name = source.repository.replace("/", "--") if source else model_id  # models of one download share it
    try:
        with FileLock(locks / name, timeout=0):
            yield
    except Timeout:
        raise ModelError(
            f"{model_id}: another process is fetching or removing it, or one made of the same files; wait for that one"
        ) from None


def remove(model_id: str) -> int:
    """Delete an installed model and what has been downloaded for it. Returns the bytes that were deleted.

    Files that another model shares are no longer this one's, and stay the other's.
    """
    if model_id == "nano":
        raise ModelError("nano: it is part of this package and cannot be removed")
    folder = installed_folder(model_id)
    source = catalogue().get(model_id)
    if folder is None and (source is None or not downloads_folder(source).is_dir()):
        here = [name for name in known_ids() if name != "nano" and installed_folder(name)]
        raise ModelError(f"{model_id}: it is not here; here are: {', '.join(here) or 'none beside the nano'}")
    with _only_one(model_id):
        gone = [folder] if folder is not None else []
        if source is not None:
            gone.append(downloads_folder(source))
        freed = 0
        for path in gone:
            freed += sum(f.stat().st_size for f in path.rglob("*") if f.is_file() and f.stat().st_nlink == 1)
            shutil.rmtree(path, ignore_errors=True)
            if path.exists():
                raise ModelError(f"{path}: could not be removed; close what uses it (the server?) and try again")
    return freed


def verify(model_id: str, report: Report = lambda line: None) -> list[str]:
    """What is wrong with the files of an installed model, or of a pipeline folder; an empty list if nothing is."""
    return verify_folder(Path(find_model(model_id).path), report)
