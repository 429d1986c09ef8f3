# SPDX-License-Identifier: Apache-2.0
"""Everything the operator of a server decides, in one frozen place."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1024 * 1024


def default_home() -> Path:
    """Where a server keeps its files unless told otherwise: the extension in Blender looks there too."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "hvg3d" / "server"


@dataclass(frozen=True)
class Settings:
    home: Path
    """Folder of the queue, the clips, the results and the token. One server at a time."""
    host: str = "127.0.0.1"
    port: int = 0
    token_file: Path | None = None
    """None: ``home/token``."""
    model: str = "nano"
    """Model of jobs that name none: an id of the registry, or a folder with a checkpoint."""
    preload: bool = False
    """Load that model when the server starts, not with the first job."""
    backend: str = "server.backend"
    """``module[:factory]``, see :mod:`server.backend`."""
    workers: int | None = None
    """None: one per GPU, or one where there is none (of this machine, or on each node of a cluster)."""
    ray: str | None = None
    """Address of a Ray cluster whose nodes do the work. None: this machine does it."""
    allowed_hosts: tuple[str, ...] = field(default=())
    """Names besides the server's own addresses that a Host header may carry."""
    max_clip_bytes: int = 1024 * MIB
    max_body_bytes: int = 1 * MIB
    """Of every request that is not the upload of a clip."""
    max_queued: int = 10_000
    max_crashes: int = 2
    """So often a job whose worker died is started again before it fails."""
    max_attempts: int = 25
    """So often a job is started in all, also when it was not to blame: it might be what takes the machine down."""
    hang_seconds: float = 900.0
    """A worker that makes no progress for so long is killed. Loading a large model from a slow disk takes minutes."""
    cancel_grace_seconds: float = 60.0
    """A worker that has not stopped this long after a cancel is killed: one step of a large model takes that long."""

    keep_days: float | None = None
    """Results that are older are removed, and clips that no job has used for so long. None: kept for ever."""
    keep_bytes: int | None = None
    """Results and unused clips are removed, the oldest first, until what is left is no more than this."""
    clean_up_dry_run: bool = False
    """Say what a clean-up would remove, and leave."""

    # what clients may use up
    max_frames: int = 1001
    max_points: int = 262_144
    """Of one frame."""
    max_tracks: int = 262_144
    max_pixels: int = 4096 * 4096
    """Of one picture."""
    max_decoded_bytes: int = 4096 * MIB
    """What a clip may take in memory, masks and reference images decompressed."""
    min_free_bytes: int = 256 * MIB
    """Left free on the disk, for the database and the results."""
    max_uploads: int = 16
    """At the same time."""
    max_streams: int = 256
    """Event streams open at the same time."""
    max_connections: int = 1000
    pause_seconds: float = 30.0
    """A body whose next bytes take longer than this is given up."""
    body_seconds: float = 60.0
    """Every body that is not the upload of a clip must be here after this."""
    # how it is reached and what it says
    tls_cert: Path | None = None
    tls_key: Path | None = None
    log_format: str = "text"
    log_level: str = "info"
    with_parent: bool = False
    """End with the program that started this one, see :mod:`server.parent`."""
    task: str = "serve"
    """Or ``check``, or ``link``: say something and leave."""

    @property
    def clip_limits(self) -> dict[str, int]:
        """The fields of :class:`hvg3d_core.conditions.limits.ClipLimits`, for the workers: only they read clips."""
        names = ("max_frames", "max_points", "max_tracks", "max_pixels", "max_decoded_bytes")
        return {name: getattr(self, name) for name in names}

    @property
    def token_path(self) -> Path:
        return self.token_file or self.home / "token"
