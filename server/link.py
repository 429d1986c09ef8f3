# SPDX-License-Identifier: Apache-2.0
"""``hvg3d serve --link``: ask the server that runs in a home for a link to its page, and print it."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path


class LinkError(RuntimeError):
    """There is no server to ask, or it does not answer."""


def trust(handshake: dict[str, object]) -> ssl.SSLContext | None:
    """How to talk to the server of a handshake file: it holds the certificate, which need not name this address."""
    certificate = handshake.get("certificate")
    if not certificate:
        return None
    context = ssl.create_default_context(cadata=str(certificate))
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def make_link(home: Path) -> str:
    """A link that works once, for 15 minutes."""
    path = home / "server.json"
    try:
        handshake = json.loads(path.read_text("utf-8"))
        url, token = str(handshake["url"]), str(handshake["token"])
    except (OSError, ValueError, KeyError):
        raise LinkError(f"no server is running with {home} as its home: start it, or give --home") from None
    request = urllib.request.Request(
        f"{url}/v1/session/link", method="POST", headers={"Authorization": f"Bearer {token}"}
    )
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust(handshake))
    )
    try:
        with opener.open(request, timeout=10) as answer:
            return url + json.load(answer)["path"]
    except (urllib.error.URLError, OSError, ValueError, KeyError) as error:
        raise LinkError(f"the server at {url} gave no link: {error}") from None
