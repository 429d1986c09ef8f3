# SPDX-License-Identifier: Apache-2.0
"""Finding the server of this machine: it writes its address and token into its home whenever it starts."""

from __future__ import annotations

import json
import os
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

from .errors import Unreachable


@dataclass(frozen=True)
class Address:
    url: str
    token: str
    verify: ssl.SSLContext | None = None
    """How to check its certificate; None: as usual."""


def default_home() -> Path:
    """Where a server keeps its files unless told otherwise. The server has the same rule."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "hvg3d" / "server"


def read_address(home: Path) -> Address:
    """Of the server that uses ``home``. Raises Unreachable where none runs."""
    path = home / "server.json"
    try:
        written = json.loads(path.read_text("utf-8"))
        url, token = str(written["url"]).rstrip("/"), str(written["token"])
    except FileNotFoundError:
        raise Unreachable(
            f"no server runs in {home} (there is no server.json)", "start it with 'hvg3d serve', or give its address"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unreachable(f"{path} cannot be read: {error}", "start the server anew") from None
    return Address(url, token, trust(str(written.get("certificate") or "")))


def trust(certificate: str, check_name: bool = False) -> ssl.SSLContext | None:
    """Trust in exactly this certificate (PEM). By default whatever name it bears: it came from a private file."""
    if not certificate:
        return None
    context = ssl.create_default_context(cadata=certificate)
    context.check_hostname = check_name
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
