# SPDX-License-Identifier: Apache-2.0
"""``python -m server --home DIR``: run the server until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from server import __version__
from server.app import create_app
from server.config import MIB, Settings, default_home
from server.context import Context, build_context
from server.files import Home, HomeInUse, write_private
from server.models import ModelError
from server.security import TokenError, is_loopback, read_or_create_token
from server.store import StoreError

log = logging.getLogger("hvg3d.server")
_GOODBYE_SECONDS = 5


class Server(uvicorn.Server):
    """uvicorn, which tells where it is once it listens, and lets go of event streams when it is to stop."""

    def __init__(self, config: uvicorn.Config, context: Context, url: str, port: int) -> None:
        super().__init__(config)
        self._context = context
        self._url = url
        self._port = port
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if not self.started:
            return
        handshake = {
            "url": self._url,
            "port": self._port,
            "pid": os.getpid(),
            "token": self._context.token,
            "version": __version__,
            "instance": self._context.instance,
        }
        write_private(self._context.home.handshake, json.dumps(handshake, indent=2).encode() + b"\n")
        print(f"HVG-3D server ready at {self._url} (token in {self._context.settings.token_path})", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._context.events.close)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        with contextlib.suppress(OSError):
            self._context.home.handshake.unlink(missing_ok=True)
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind)
    if sys.platform != "win32":  # there it would let two servers share a port
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(address)
    return sock


def parse(argv: Sequence[str] | None) -> Settings:
    defaults = Settings(home=default_home())
    parser = argparse.ArgumentParser(prog="python -m server", description="Generate videos from clips, over HTTP.")
    parser.add_argument(
        "--home", type=Path, default=defaults.home, help="folder for queue, clips, results and token (%(default)s)"
    )
    parser.add_argument("--host", default=defaults.host, help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=defaults.port, help="0: any free one (%(default)s)")
    parser.add_argument("--token-file", type=Path, help="made if it does not exist (HOME/token)")
    parser.add_argument(
        "--model", default=defaults.model, help="of jobs that name none: an id, or a folder (%(default)s)"
    )
    parser.add_argument("--preload", action="store_true", help="load that model at once, not with the first job")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name that clients may use for this server; may be repeated",
    )
    parser.add_argument(
        "--max-clip-mib",
        type=float,
        default=defaults.max_clip_bytes / MIB,
        help="largest clip that is accepted (%(default)s)",
    )
    parser.add_argument(
        "--cancel-grace",
        type=float,
        default=defaults.cancel_grace_seconds,
        metavar="SECONDS",
        help="a worker that has not stopped so long after a cancel is killed (%(default)s)",
    )
    parser.add_argument("--backend", default=defaults.backend, help="module[:factory] that generates (%(default)s)")
    given = parser.parse_args(argv)
    if not 0 <= given.port <= 65535:
        parser.error(f"--port {given.port}: give 0 to 65535")
    if given.max_clip_mib <= 0:
        parser.error(f"--max-clip-mib {given.max_clip_mib}: give more than 0")
    if given.cancel_grace <= 0:
        parser.error(f"--cancel-grace {given.cancel_grace}: give more than 0")
    return Settings(
        home=given.home.expanduser().absolute(),
        host=given.host,
        port=given.port,
        token_file=given.token_file and given.token_file.expanduser().absolute(),
        model=given.model,
        preload=given.preload,
        backend=given.backend,
        allowed_hosts=tuple(given.allow_host),
        max_clip_bytes=int(given.max_clip_mib * MIB),
        cancel_grace_seconds=given.cancel_grace,
    )


def run(settings: Settings) -> None:
    home = Home(settings.home)
    home.lock()
    token = read_or_create_token(settings.token_path)
    try:
        sock = listen(settings.host, settings.port)
    except OSError as error:
        raise SystemExit(
            f"error: cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; "
            "give another --host or --port (0: any free one)"
        ) from None
    port = sock.getsockname()[1]
    url = f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{port}"
    if not is_loopback(settings.host):
        log.warning("listening on %s: what goes over the network is not encrypted, the token included", settings.host)
    context = build_context(settings, home, token)
    config = uvicorn.Config(
        create_app(context),
        log_level="warning",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=_GOODBYE_SECONDS,
        server_header=False,
    )
    server = Server(config, context, url, port)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[sock])
    home.unlock()


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        run(settings)
    except (HomeInUse, TokenError, StoreError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
