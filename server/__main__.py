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

from server import __version__, logs
from server.app import create_app
from server.browser import PAGE, link_path
from server.check import run_check
from server.cleanup import describe, plan
from server.cluster.runner import RayError
from server.config import MIB, Settings, default_home
from server.context import Context, build_context
from server.files import Home, HomeInUse, write_private
from server.link import LinkError, make_link
from server.models import ModelError
from server.options import add_options, read_options
from server.parent import LAUNCH, Parent
from server.protocol import PatientProtocol
from server.security import TokenError, is_loopback, read_or_create_token
from server.store import Store, StoreError

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
        if LAUNCH in os.environ:
            handshake["launch"] = os.environ[LAUNCH]
        settings = self._context.settings
        if settings.tls_cert:
            handshake["certificate"] = settings.tls_cert.read_text("utf-8")
        write_private(self._context.home.handshake, json.dumps(handshake, indent=2).encode() + b"\n")
        print(f"HVG-3D server ready at {self._url} (token in {settings.token_path})", flush=True)
        if PAGE.is_dir():
            print(f"in a browser, once, within 15 minutes: {self._url}{link_path(self._context)}", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._context.events.close)

    def leave(self) -> None:
        """As at an interrupt. From any thread."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._context.events.close)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        with contextlib.suppress(OSError):
            self._context.home.handshake.unlink(missing_ok=True)
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # With the protocol named: asyncio turns Nagle's algorithm off only on sockets that say they are TCP, and with it
    # on, every short answer waits 40 ms for the client's delayed acknowledgement.
    sock = socket.socket(family, kind, socket.IPPROTO_TCP)
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
    workers = parser.add_argument_group("workers")
    workers.add_argument(
        "--workers",
        type=int,
        metavar="K",
        help="worker processes (one per GPU, without a GPU one; with --ray, at most so many on all nodes)",
    )
    workers.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="work on the nodes of the Ray cluster with this head, as 10.0.0.1:6379, or auto (on this machine)",
    )
    workers.add_argument(
        "--hang-seconds",
        type=float,
        default=defaults.hang_seconds,
        metavar="SECONDS",
        help="a worker that makes no progress for so long is killed (%(default)s)",
    )
    workers.add_argument(
        "--max-crashes",
        type=int,
        default=defaults.max_crashes,
        metavar="N",
        help="so often a job whose worker died is started again (%(default)s)",
    )
    workers.add_argument(
        "--max-attempts",
        type=int,
        default=defaults.max_attempts,
        metavar="N",
        help="so often a job is started in all, whatever ended it (%(default)s)",
    )
    room = parser.add_argument_group("clean-up (none unless asked for)")
    room.add_argument("--keep-days", type=float, metavar="DAYS", help="remove results and unused clips that are older")
    room.add_argument("--keep-gib", type=float, metavar="GIB", help="remove the oldest until no more than this is left")
    room.add_argument("--dry-run", action="store_true", help="print what a clean-up would remove, and leave")
    add_options(parser, defaults)
    given = parser.parse_args(argv)
    if not 0 <= given.port <= 65535:
        parser.error(f"--port {given.port}: give 0 to 65535")
    if given.max_clip_mib <= 0:
        parser.error(f"--max-clip-mib {given.max_clip_mib}: give more than 0")
    if given.cancel_grace <= 0:
        parser.error(f"--cancel-grace {given.cancel_grace}: give more than 0")
    if given.workers is not None and given.workers < 1:
        parser.error(f"--workers {given.workers}: give 1 or more")
    if given.hang_seconds <= 0:
        parser.error(f"--hang-seconds {given.hang_seconds}: give more than 0")
    if given.max_crashes < 0:
        parser.error(f"--max-crashes {given.max_crashes}: give 0 or more")
    if given.max_attempts < 1:
        parser.error(f"--max-attempts {given.max_attempts}: give 1 or more")
    for option, value in (("--keep-days", given.keep_days), ("--keep-gib", given.keep_gib)):
        if value is not None and value < 0:
            parser.error(f"{option} {value}: give 0 or more")
    if given.dry_run and given.keep_days is None and given.keep_gib is None:
        parser.error("--dry-run: give --keep-days or --keep-gib with it, to say what a clean-up may keep")
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
        workers=given.workers,
        ray=given.ray,
        hang_seconds=given.hang_seconds,
        max_crashes=given.max_crashes,
        max_attempts=given.max_attempts,
        keep_days=given.keep_days,
        keep_bytes=None if given.keep_gib is None else int(given.keep_gib * 1024 * MIB),
        clean_up_dry_run=given.dry_run,
        **read_options(given, parser),
    )


def print_clean_up(settings: Settings) -> None:
    """Also while a server is at work in this home: nothing is changed."""
    if not (settings.home / "jobs.sqlite3").exists():
        raise StoreError(f"{settings.home} holds no job table: give the --home of a server")
    home = Home(settings.home)
    store = Store(home.database, read_only=True)
    print(describe(plan(store, home, settings.keep_days, settings.keep_bytes)))
    store.close()


def run(settings: Settings) -> None:
    if settings.clean_up_dry_run:
        print_clean_up(settings)
        return
    parent = Parent() if settings.with_parent else None
    if parent is not None:
        parent.watch()
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
    scheme = "https" if settings.tls_cert else "http"
    url = f"{scheme}://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{port}"
    if not is_loopback(settings.host) and not settings.tls_cert:
        log.warning("listening on %s: what goes over the network is not encrypted; give --tls-cert", settings.host)
    context = build_context(settings, home, token)
    config = uvicorn.Config(
        create_app(context),
        http=PatientProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        limit_concurrency=settings.max_connections,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        lifespan="on",
        timeout_graceful_shutdown=_GOODBYE_SECONDS,
        server_header=False,
    )
    server = Server(config, context, url, port)
    if parent is not None:
        parent.on_gone(server.leave)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[sock])
    home.unlock()


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(argv)
    logs.set_up(settings.log_format, settings.log_level)
    try:
        if settings.task == "check":
            return run_check(settings)
        if settings.task == "link":
            print(make_link(settings.home))
        else:
            run(settings)
    except (LinkError, HomeInUse, TokenError, StoreError, ModelError, RayError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
