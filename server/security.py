# SPDX-License-Identifier: Apache-2.0
"""Who may talk to the server: the token in its private file, and the names under which the server may be asked.

The Host header is checked because of DNS rebinding: a web page that makes its own name point at 127.0.0.1 gets its
requests through the browser, but cannot make the browser send another name than its own.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

log = logging.getLogger("hvg3d.server")
_MIN_TOKEN = 16


class TokenError(RuntimeError):
    """The token file cannot be used."""


def read_or_create_token(path: Path) -> str:
    """The token in ``path``; a new random one where there is no file. The file ends up readable by its owner only."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        token = check_token(path.read_text("utf-8"), path)
        if sys.platform != "win32" and path.stat().st_mode & 0o077:
            path.chmod(0o600)
            log.warning("%s could be read by other users; it is private now. Delete it to have a new token made", path)
        return token
    token = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(token + "\n")
    return token


def check_token(text: str, path: Path) -> str:
    """The token in the text of ``path``. Raises TokenError where it is none."""
    token = text.strip()
    if len(token) < _MIN_TOKEN or not token.isascii() or any(c.isspace() for c in token):
        raise TokenError(
            f"{path} must hold one word of at least {_MIN_TOKEN} ASCII characters: delete the file "
            "to have a new token made"
        )
    return token


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class HostCheck:
    """Names and addresses under which this server may be asked for.

    On loopback only loopback's. Elsewhere also any literal address (rebinding needs a name) and the machine's names.
    """

    def __init__(self, bound: str, extra: Iterable[str]) -> None:
        self._any_address = not is_loopback(bound)
        self._names = {"localhost", *(name.lower().rstrip(".") for name in extra)}
        if self._any_address:
            self._names |= {bound.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}

    def __call__(self, header: str) -> bool:
        try:
            name = urlsplit(f"//{header}").hostname
        except ValueError:
            return False
        if not name:
            return False
        name = name.lower().rstrip(".")
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._any_address or address.is_loopback
