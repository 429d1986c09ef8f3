# SPDX-License-Identifier: Apache-2.0
"""Sessions of browsers, whose pictures, videos and event streams cannot carry an Authorization header.

A session is a cookie that the server can check without remembering it: its end and a random number, signed with a key
that follows from the token. So it outlives a restart, and a new token ends all of them. A *code* is what a link may
carry in place of the token: good for one session, for a short time.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

SESSION_SECONDS = 7 * 24 * 3600
CODE_SECONDS = 15 * 60
_MAX_CODES = 100


class Sessions:
    """``clock``: seconds since 1970."""

    def __init__(self, token: str, clock: Callable[[], float] = time.time) -> None:
        self._key = hashlib.sha256(b"hvg3d session\0" + token.encode()).digest()
        self._clock = clock
        self._codes: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        # Cookies know no ports: two servers on one machine must not overwrite each other's.
        self.cookie = "hvg3d_" + hashlib.sha256(b"hvg3d cookie\0" + token.encode()).hexdigest()[:12]

    def create(self) -> tuple[str, float]:
        """A new session's cookie and its end."""
        expires = int(self._clock()) + SESSION_SECONDS
        content = f"{expires}.{secrets.token_hex(16)}"
        return f"{content}.{self._sign(content)}", float(expires)

    def check(self, value: str) -> float | None:
        """The end of a valid session; None for anything else."""
        content, _, signature = value.rpartition(".")
        if not hmac.compare_digest(signature.encode("utf-8", "replace"), self._sign(content).encode()):
            return None
        expires, _, number = content.partition(".")
        if number in self._ended or int(expires) <= self._clock():  # signed by us: it is a number
            return None
        return float(expires)

    def end(self, value: str) -> None:
        """Log out. Kept until it would have ended anyway, but not over a restart: the browser has dropped it."""
        if (expires := self.check(value)) is not None:
            now = self._clock()
            self._ended = {number: end for number, end in self._ended.items() if end > now}
            self._ended[value.split(".")[1]] = expires

    def make_code(self) -> str:
        now = self._clock()
        self._codes = {code: end for code, end in self._codes.items() if end > now}
        while len(self._codes) >= _MAX_CODES:
            del self._codes[next(iter(self._codes))]
        code = secrets.token_urlsafe(24)
        self._codes[hashlib.sha256(code.encode()).hexdigest()] = now + CODE_SECONDS
        return code

    def redeem(self, code: str) -> bool:
        """Whether ``code`` was good; it is not any more. Looked up by its hash, so timing tells nothing of it."""
        end = self._codes.pop(hashlib.sha256(code.encode("utf-8", "replace")).hexdigest(), 0.0)
        return end > self._clock()

    def _sign(self, content: str) -> str:
        return hmac.new(self._key, content.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
