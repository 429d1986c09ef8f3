# SPDX-License-Identifier: GPL-3.0-or-later
"""What people type or paste into settings: paths of any system, addresses in any spelling."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
import urllib.parse
import urllib.request
from pathlib import Path

DEFAULT_PORT = 8765
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb"}
_OF_WINDOWS = re.compile(r"^([A-Za-z]:[\\/]|\\\\)")
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):[\\/]{1,3}")


class Unusable(ValueError):
    """A setting that means nothing here; says what is wrong and what to do."""


def bare(text: str) -> str:
    """Without blanks and line breaks around it, and without quotes, as a copied path often has."""
    text = text.strip().strip("\u200b\ufeff")
    while len(text) >= 2 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    return text


def tidy_path(text: str, beside: str = "") -> Path | None:
    """A path as it was meant; None for nothing. ``beside``: the folder of the .blend file, for ``//folder``.

    Understands quotes, ``~``, ``$HOME``, ``%APPDATA%``, ``file:`` addresses, trailing separators and network shares.
    Raises :class:`Unusable` for a path of another system.
    """
    text = bare(text)
    if not text:
        return None
    if text.lower().startswith("file:"):
        parts = urllib.parse.urlsplit(text)
        text = urllib.request.url2pathname(parts.path)
        if parts.netloc and parts.netloc != "localhost":
            text = f"//{parts.netloc}{text}"
    if "\0" in text:
        raise Unusable(f"Path {text!r} has a character that no path can have: write it again")
    if sys.platform != "win32" and _OF_WINDOWS.match(text):
        raise Unusable(
            f"{text} is a path of Windows, and this computer has another system: choose a folder of this one"
        )
    text = os.path.expanduser(os.path.expandvars(text))
    if text.startswith("~"):
        raise Unusable(f"{text}: there is no user of that name, so no home folder; write the path in full")
    if text.startswith("//") and beside:
        near = os.path.normpath(os.path.join(beside, text[2:]))
        if os.path.exists(near):
            return Path(near)
    if sys.platform != "win32" and text.startswith("//"):
        text = f"/{text.lstrip('/')}"  # a network share is something else only on Windows
    path = Path(os.path.normpath(text))
    if not path.is_absolute():
        raise Unusable(f"{text!r} is not a full path: begin it with {Path.home().anchor!r} or ~")
    return path


def tidy_address(text: str) -> str:
    """``scheme://host[:port]`` of what was typed or pasted: a host alone, a link to the server's page, an API address.

    Without a scheme it is http, and then without a port the usual one. Raises :class:`Unusable`.
    """
    text = bare(text)
    example = "write it as http://127.0.0.1:8765"
    if not text:
        raise Unusable(f"There is no address of the server: {example}")
    if _OF_WINDOWS.match(text) or (text.startswith(("/", "~")) and not text.startswith("//")):
        raise Unusable(f"{text} is a path, not an address: {example}, or choose 'On this computer'")
    scheme = _SCHEME.match(text)
    rest = text[scheme.end() :] if scheme else text.lstrip("/")
    name = scheme[1].lower() if scheme else "http"
    if name not in ("http", "https"):
        raise Unusable(f"{text}: {name}:// is not the way to a server: {example}")
    rest = re.split(r"[/\\?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    if rest.count(":") > 1 and not rest.startswith("["):
        rest = f"[{rest}]"  # an IPv6 address
    try:
        parts = urllib.parse.urlsplit(f"{name}://{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Unusable(f"{text} is not an address ({error}): {example}") from None
    if not host or re.search(r"\s", host):
        raise Unusable(f"{text} names no computer: {example}")
    if port is None and scheme is None:
        port = DEFAULT_PORT
    where = f"[{host}]" if ":" in host else host
    return f"{name}://{where}" + (f":{port}" if port is not None else "")


def is_loopback(url: str) -> bool:
    """Whether an address stays on this computer."""
    try:
        host = urllib.parse.urlsplit(url).hostname or ""
    except ValueError:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
