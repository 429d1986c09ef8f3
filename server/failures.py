# SPDX-License-Identifier: Apache-2.0
"""Why a job ended without a video, in words a user can act on.

Returned dictionaries have the fields of :class:`server.schemas.ErrorInfo`.
"""

from __future__ import annotations

import errno
import signal
from typing import Any

from hvg3d_core.conditions import ClipError
from hvg3d_core.conditions.limits import ClipTooLarge

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
_LOG_LINES = 30
SMALLER = "use fewer frames, a smaller model or a memory-saving mode, or close other programs that use the same memory"


def failure(code: str, message: str, remedy: str | None = None, log: list[str] | None = None) -> dict[str, Any]:
    return {"code": code, "message": message, "field": None, "remedy": remedy, "log": (log or [])[-_LOG_LINES:]}


def is_out_of_memory(error: BaseException) -> bool:
    """Also torch's: torch.OutOfMemoryError on a GPU, a RuntimeError of its allocator on the CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def describe_exception(error: BaseException) -> dict[str, Any]:
    text = str(error).strip()
    if isinstance(error, ClipTooLarge):
        option = "--" + error.limit.replace("_", "-").replace("decoded-bytes", "decoded-mib")
        return failure("clip_too_large", text, f"export less, or start the server with a larger {option}")
    if isinstance(error, ClipError):
        return failure("clip_invalid", text, "correct the scene or the file and export the clip again")
    if is_out_of_memory(error):
        first = text.splitlines()[0] if text else "the allocation failed"
        return failure("out_of_memory", f"the worker ran out of memory: {first}", SMALLER)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return failure("disk_full", f"the server's disk is full: {text}", "free space on it and send the job again")
    if isinstance(error, ImportError):
        return failure(
            "not_installed",
            f"the worker cannot load the generator: {text}",
            "install the package with all that generation needs: pip install 'hvg3d[network,server]'",
        )
    if isinstance(error, ValueError):
        return failure("invalid_request", text or type(error).__name__, "change the request as the message says")
    return failure(
        "generation_failed",
        f"{type(error).__name__}: {text}" if text else type(error).__name__,
        "the server's worker log has the details",
    )


def describe_exit(code: int | None) -> str:
    """A process's end in words: 'exit code 3', 'signal 9 (SIGKILL), ...'."""
    if code is None:
        return "it could not be asked for its exit code"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        hint = ", often the system running out of memory" if name == "SIGKILL" else ""
        return f"signal {-code} ({name}{hint})"
    if code == 0xC0000005:
        return f"exit code {code} (access violation)"
    return f"exit code {code}"
