# SPDX-License-Identifier: Apache-2.0
"""Files of a hub's repository, fetched through huggingface_hub such that a broken-off download goes on where it was.

The library keeps no part of a file beyond its own process, so the parts are kept here: its ``http_get`` appends to them
from where they end. Every file is held against the hash that the hub gives for it before it takes its name.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .manifest import git_blob, sha256
from .pipeline_folder import check_space
from .registry import ModelError

STATE = "download.json"
PART = ".part"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository, as the hub lists it."""

    name: str
    size: int
    sha256: str | None  # of a file kept as a large one
    blob: str | None  # git's name of the others

    def is_at(self, path: Path) -> bool:
        """Whether ``path`` is that file, by size and hash."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if self.sha256:
            return sha256(path) == self.sha256
        return self.blob is None or git_blob(path) == self.blob


@dataclass(frozen=True)
class Listing:
    """What a repository's revision has, of that which is wanted."""

    repository: str
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


def is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def list_files(repository: str, revision: str, patterns: tuple[str, ...], endpoint: str | None) -> Listing:
    """Ask the hub. Raises ModelError that says what to do when it does not answer or has no such repository."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    api = HfApi(endpoint=endpoint, token=False if endpoint else None)
    try:
        info = api.model_info(repository, revision=revision, files_metadata=True, timeout=30)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ModelError(f"{api.endpoint}: there is no {repository} at {revision!r} ({_short(error)})") from None
    except Exception as error:  # the network's, whose classes depend on the library's version
        _reraise_unless_network(error)
        raise ModelError(
            f"{api.endpoint} cannot be reached ({_short(error)}): try again, name another one (--mirror or "
            "HF_ENDPOINT), or a folder where the files are already (--from)"
        ) from None
    files = []
    for sibling in info.siblings or []:
        if any(fnmatch.fnmatch(sibling.rfilename, pattern) for pattern in patterns):
            if sibling.size is None:
                raise ModelError(
                    f"{api.endpoint}: tells no size of {repository}/{sibling.rfilename}; use another mirror"
                )
            lfs = sibling.lfs
            files.append(RemoteFile(sibling.rfilename, sibling.size, lfs.sha256 if lfs else None, sibling.blob_id))
    if not files or info.sha is None:
        raise ModelError(f"{api.endpoint}: {repository} has none of {', '.join(patterns)}")
    return Listing(repository, info.sha, tuple(files))


def download(
    listing: Listing,
    folder: Path,
    endpoint: str | None,
    *,
    extra_bytes: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Bring every listed file to ``folder``, going on from what is there.

    extra_bytes: what else will be written to that disk afterwards; room for both is asked for before anything is
    fetched. Raises ModelError: no room, broken off (what has come stays), or a hash that is wrong twice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = _State(folder)
    missing = [file for file in listing.files if not done.has(file)]
    parts = sum(p.stat().st_size for f in missing if (p := _part(folder, f)).is_file())
    check_space(folder, sum(f.size for f in missing) - parts + extra_bytes, "the download and what is made of it")
    for i, file in enumerate(missing):
        report(f"[{i + 1}/{len(missing)}] {file.name}, {file.size / 1e6:.1f} MB")
        if not _from_cache(listing, file, folder):
            _fetch(listing, file, folder, endpoint, report)
        done.add(file)


class _State:
    """Which files have come and been found right, so that 26 GB are not hashed again when a download is resumed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / STATE
        try:
            self.checked: dict[str, list[Any]] = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            self.checked = {}

    def _stamp(self, file: RemoteFile) -> list[Any]:
        stat = (self.folder / file.name).stat()
        return [file.sha256 or file.blob, stat.st_size, stat.st_mtime_ns]

    def has(self, file: RemoteFile) -> bool:
        return (self.folder / file.name).is_file() and self.checked.get(file.name) == self._stamp(file)

    def add(self, file: RemoteFile) -> None:
        self.checked[file.name] = self._stamp(file)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.checked, indent=1), encoding="utf-8")
        partial.replace(self.path)


def _part(folder: Path, file: RemoteFile) -> Path:
    """The part's name carries the hash: a part of another version of the file is never gone on with."""
    return folder / f"{file.name}.{(file.sha256 or file.blob or 'x')[:16]}{PART}"


def _from_cache(listing: Listing, file: RemoteFile, folder: Path) -> bool:
    """Take a file that is here already: left from before, or in the hub library's cache."""
    from huggingface_hub import try_to_load_from_cache

    from .pipeline_folder import link_or_copy

    target = folder / file.name
    if file.is_at(target):
        return True
    target.unlink(missing_ok=True)
    cached = try_to_load_from_cache(listing.repository, file.name, revision=listing.commit)
    if isinstance(cached, str) and file.is_at(Path(cached)):
        link_or_copy(Path(cached), target)
        return True
    return False


def _fetch(
    listing: Listing, file: RemoteFile, folder: Path, endpoint: str | None, report: Callable[[str], None]
) -> None:
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    target, part = folder / file.name, _part(folder, file)
    target.parent.mkdir(parents=True, exist_ok=True)
    host = endpoint or constants.ENDPOINT
    url = hf_hub_url(listing.repository, file.name, revision=listing.commit, endpoint=endpoint)
    # A stranger's mirror is not told who is asking.
    headers = build_hf_headers(token=False if endpoint else None) | {"Accept-Encoding": "identity"}
    wrong = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        if before > file.size:
            part.unlink()
            before = 0
        try:
            with open(part, "ab") as out:
                if before < file.size:
                    http_get(url, out, resume_size=before, headers=dict(headers), expected_size=file.size)
        except Exception as error:  # the network's, whose classes depend on the library's version
            _reraise_unless_network(error)
            now = part.stat().st_size if part.is_file() else 0
            if now > before:  # the library has tried again itself where nothing came at all
                continue
            raise ModelError(
                f"{file.name}: the download from {host} broke off at {now / 1e6:.1f} of {file.size / 1e6:.1f} MB "
                f"({_short(error)}); the same command goes on from there"
            ) from None
        if file.is_at(part):
            part.replace(target)
            return
        part.unlink()
        wrong += 1
        if wrong == 2:
            raise ModelError(
                f"{file.name}: what {host} sends is not what it lists (the hash is wrong, twice); use another mirror"
            )
        report(f"{file.name}: the hash is wrong, fetching it again")


def _reraise_unless_network(error: Exception) -> None:
    """Go on only for what comes from the network. OSError without a number is the hub library's own."""
    module = type(error).__module__.partition(".")[0]
    if module in ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "huggingface_hub"):
        return
    if isinstance(error, ConnectionError | TimeoutError) or (isinstance(error, OSError) and error.errno is None):
        return
    if isinstance(error, OSError):
        raise ModelError(
            f"{error.filename or 'the download'}: {error.strerror}; what has come stays, run it again"
        ) from None
    raise error


def _short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}".rstrip(": ")[:200]
