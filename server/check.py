# SPDX-License-Identifier: Apache-2.0
"""``hvg3d serve --check``: all that could keep the server from working, looked at before it is started.

Nothing is changed. Each finding says what to do; the exit code is 1 where there is a problem.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import psutil

from server.cluster.runner import RayError, check_ray
from server.config import MIB, Settings
from server.devices import Finding, ask_driver, ask_torch, judge
from server.models import ModelError, Models
from server.security import TokenError, check_token, is_loopback
from server.tables import MIGRATIONS
from server.tls import TlsError, check_pair, inspect_pair

_GIB = 1024 * MIB
_ROOMY = 10 * _GIB
_WORKER_BYTES = 2 * _GIB  # torch and its friends, before any weight
_NETWORK_DISKS = ("nfs", "nfs4", "cifs", "smb", "smbfs", "9p", "fuse.sshfs", "afs")
_SOON_SECONDS = 21 * 24 * 3600.0
_MARKS = {"ok": "ok      ", "warning": "warning ", "problem": "PROBLEM "}


def run_check(settings: Settings, say: Callable[[str], None] = print) -> int:
    """Print the findings (as JSON lines with ``--log-format json``). 1 if there is a problem, else 0."""
    problems = warnings = 0
    for finding in look(settings):
        problems += finding.level == "problem"
        warnings += finding.level == "warning"
        if settings.log_format == "json":
            say(json.dumps(asdict(finding)))
        else:
            say(f"{_MARKS[finding.level]} {finding.about}: {finding.message}")
            if finding.remedy:
                say(f"          -> {finding.remedy}")
    if settings.log_format != "json":
        say(f"{problems} problems, {warnings} warnings" + ("" if problems else ": the server can be started"))
    return 1 if problems else 0


def look(settings: Settings) -> Iterator[Finding]:
    """Findings, in the order in which a start would come upon them."""
    running = _running(settings.home)
    yield from _home(settings, running)
    yield from _disk(settings)
    yield from _token(settings)
    yield from _jobs(settings)
    yield from _tls(settings)
    yield from _address(settings, running)
    if settings.ray:  # this machine's GPUs and memory do not matter then
        yield _cluster(settings.ray)
        yield from _model(settings, 0)
        return
    gpus, none = ask_driver()
    if none is not None:
        yield none
    yield from judge(gpus, ask_torch())
    yield from _model(settings, max((gpu.total_mib for gpu in gpus), default=0) * MIB)


def _running(home: Path) -> dict | None:
    """The handshake of a server that runs in this home."""
    try:
        written = json.loads((home / "server.json").read_text("utf-8"))
        return written if psutil.pid_exists(int(written["pid"])) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _home(settings: Settings, running: dict | None) -> Iterator[Finding]:
    home = settings.home
    if running is not None:
        yield Finding("ok", "home", f"a server runs in {home} already: {running.get('url')}, process {running['pid']}")
    above = home
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        yield Finding("problem", "home", f"{above} is not a folder", "give another --home")
        return
    if not os.access(above, os.W_OK | os.X_OK):
        yield Finding(
            "problem", "home", f"{above} cannot be written to by this user", "give another --home, or change its owner"
        )
        return
    if home.exists() and sys.platform != "win32" and stat.S_IMODE(home.stat().st_mode) & 0o077:
        yield Finding("warning", "home", f"other users can look into {home}", f"chmod 700 {home}")
    elif running is None:
        yield Finding("ok", "home", str(home) if home.exists() else f"{home} will be made")
    kind = _file_system(above)
    if kind in _NETWORK_DISKS:
        yield Finding(
            "warning",
            "home",
            f"{above} is on a network disk ({kind}), where the job table's locks may not work",
            "give a --home on a disk of this machine",
        )


def _file_system(path: Path) -> str:
    best, kind = -1, ""
    for part in psutil.disk_partitions(all=True):
        mount = Path(part.mountpoint)
        if (path == mount or mount in path.parents) and len(part.mountpoint) > best:
            best, kind = len(part.mountpoint), part.fstype
    return kind


def _disk(settings: Settings) -> Iterator[Finding]:
    above = next(folder for folder in (settings.home, *settings.home.parents) if folder.is_dir())
    free = shutil.disk_usage(above).free
    text = f"{free / _GIB:.1f} GiB free on the disk of {settings.home}"
    if free < settings.min_free_bytes:
        yield Finding(
            "problem",
            "disk",
            f"{text}, less than the reserve of {settings.min_free_bytes / _GIB:.1f} GiB: nothing would be accepted",
            "free space, give another --home, or --keep-gib to have old results removed",
        )
    elif free < _ROOMY:
        yield Finding("warning", "disk", text, "give --keep-days or --keep-gib, so that old results are removed")
    else:
        yield Finding("ok", "disk", text)


def _token(settings: Settings) -> Iterator[Finding]:
    path = settings.token_path
    try:
        token = path.read_text("utf-8")
    except FileNotFoundError:
        yield Finding("ok", "token", f"{path} will be made")
        return
    except (OSError, UnicodeDecodeError) as error:
        yield Finding("problem", "token", f"{path} cannot be read: {error}", "delete it to have a new one made")
        return
    try:
        check_token(token, path)
    except TokenError as error:
        yield Finding("problem", "token", str(error))
        return
    if sys.platform != "win32" and path.stat().st_mode & 0o077:
        yield Finding("warning", "token", f"other users can read {path}", "delete it to have a new one made")
    else:
        yield Finding("ok", "token", str(path))


def _jobs(settings: Settings) -> Iterator[Finding]:
    path = settings.home / "jobs.sqlite3"
    if not path.exists():
        return
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            waiting = db.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()[0]
            sound = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        finally:
            db.close()
    except sqlite3.DatabaseError as error:
        yield Finding("problem", "jobs", f"{path} cannot be read: {error}", "restore it from a backup, or move it away")
        return
    if version > len(MIGRATIONS):
        yield Finding("problem", "jobs", f"{path} was written by a newer server", "update hvg3d")
    elif sound != "ok":
        yield Finding("problem", "jobs", f"{path} is damaged: {sound}", "restore it from a backup, or move it away")
    else:
        yield Finding("ok", "jobs", f"{waiting} jobs wait in {path}")


def _tls(settings: Settings) -> Iterator[Finding]:
    certificate, key = settings.tls_cert, settings.tls_key
    if certificate is None and key is None:
        if not is_loopback(settings.host):
            yield Finding(
                "warning",
                "TLS",
                f"on {settings.host} everything, the token too, goes over the network in the clear",
                "give --tls-cert and --tls-key, or put a proxy with TLS in front",
            )
        return
    try:
        check_pair(certificate, key)
        assert certificate is not None and key is not None
        ends, names = inspect_pair(certificate, key)
    except TlsError as error:
        yield Finding("problem", "TLS", str(error))
        return
    day = time.strftime("%Y-%m-%d", time.gmtime(ends))
    text = f"certificate for {', '.join(names) or 'no name'}, until {day}"
    if ends < time.time() + _SOON_SECONDS:
        yield Finding("warning", "TLS", text, "renew it soon, and start the server again afterwards")
    else:
        yield Finding("ok", "TLS", text)


def _address(settings: Settings, running: dict | None) -> Iterator[Finding]:
    from server.__main__ import listen

    where = f"{settings.host}:{settings.port}"
    if running is not None and settings.port and running.get("port") == settings.port:
        return
    try:
        listen(settings.host, settings.port).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            remedy = "another program has this port: give another --port (0: any free one)"
        elif error.errno == errno.EACCES:
            remedy = "ports below 1024 need root's rights: give a --port from 1024"
        else:
            remedy = "give an address of this machine as --host (127.0.0.1, or 0.0.0.0 for all)"
        yield Finding("problem", "address", f"cannot listen on {where}: {error.strerror or error}", remedy)
        return
    yield Finding("ok", "address", f"{where} is free" if settings.port else f"a free port of {settings.host}")


def _cluster(address: str) -> Finding:
    try:
        check_ray(address)
    except RayError as error:
        what, _, remedy = str(error).partition("; ")
        return Finding("problem", "cluster", what, remedy or "install it, or leave --ray away")
    return Finding("ok", "cluster", f"Ray is installed, and {address} answers; `ray status` lists its nodes")


def _model(settings: Settings, gpu_bytes: int) -> Iterator[Finding]:
    try:
        models = Models(settings.backend, settings.model)
    except ModelError as error:
        yield Finding("problem", "model", str(error))
        return
    except ImportError as error:
        yield Finding("problem", "model", f"--backend {settings.backend}: {error}", "correct the name, or install it")
        return
    entries = {entry["id"]: entry for entry in models.all()}
    entry = entries[models.default]
    installed = ", ".join(name for name, other in entries.items() if other["installed"])
    yield Finding("ok", "model", f"{models.default} is the default; installed: {installed}")
    if settings.ray:
        return
    needs = entry.get("memory") or {}
    least = min(needs.values(), default=entry.get("bytes") or 0)
    memory = psutil.virtual_memory()
    have, where = (gpu_bytes, "the GPU") if gpu_bytes else (memory.available, "memory")
    need = least if gpu_bytes else least + _WORKER_BYTES * (settings.workers or 1)
    text = f"{models.default} needs {need / _GIB:.1f} GiB of {where}, which has {have / _GIB:.1f}"
    if need > have:
        yield Finding("problem", "memory", text, "use a smaller --model, fewer --workers, or a larger machine")
    elif need > 0.8 * have:
        yield Finding("warning", "memory", text, "long or large clips may not fit: use memory modes")
    else:
        yield Finding("ok", "memory", text)
    if memory.total < 4 * _GIB:
        yield Finding("warning", "memory", f"the machine has {memory.total / _GIB:.1f} GiB in all", "8 GiB are advised")
