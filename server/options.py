# SPDX-License-Identifier: Apache-2.0
"""Command-line options about limits, TLS and logs, which have nothing to do with the queue and the workers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from server.config import MIB, Settings
from server.logs import FORMATS
from server.tls import TlsError, check_pair

_LEVELS = ("debug", "info", "warning", "error")
_COUNTS = {
    "max_queued": "jobs that may wait",
    "max_frames": "frames of a clip",
    "max_points": "points of a clip, in one frame",
    "max_tracks": "tracks of a clip",
    "max_pixels": "pixels of one picture in a clip",
    "max_uploads": "uploads at the same time",
    "max_streams": "event streams open at the same time",
    "max_connections": "connections at the same time",
}


def add_options(parser: argparse.ArgumentParser, defaults: Settings) -> None:
    limits = parser.add_argument_group("limits")
    for name, text in _COUNTS.items():
        limits.add_argument(
            _option(name), type=int, default=getattr(defaults, name), metavar="N", help=f"{text} (%(default)s)"
        )
    limits.add_argument(
        "--max-decoded-mib",
        type=float,
        default=defaults.max_decoded_bytes / MIB,
        metavar="MIB",
        help="memory that a clip may take once it is decompressed (%(default)s)",
    )
    limits.add_argument(
        "--min-free-mib",
        type=float,
        default=defaults.min_free_bytes / MIB,
        metavar="MIB",
        help="space that is left free on the disk (%(default)s)",
    )
    tls = parser.add_argument_group("TLS (HTTPS)")
    tls.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate, with the chain behind it, as PEM")
    tls.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, as PEM, not encrypted")
    logs = parser.add_argument_group("logs (on standard error)")
    logs.add_argument("--log-format", choices=FORMATS, default=defaults.log_format, help="(%(default)s)")
    logs.add_argument("--log-level", choices=_LEVELS, default=defaults.log_level, help="(%(default)s)")
    started = parser.add_argument_group("started by another program")
    started.add_argument(
        "--with-parent",
        action="store_true",
        help="end when standard input ends, as it does with the program that holds its other end; "
        "the lines 'stay' and 'leave' say otherwise",
    )
    other = parser.add_argument_group("instead of serving")
    other.add_argument("--check", action="store_true", help="look for what would go wrong, and say what to do")
    other.add_argument("--link", action="store_true", help="print a link to the page of the server that uses this home")


def read_options(given: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The fields of Settings that these options set. Ends the program with a message where one cannot be used."""
    for name in _COUNTS:
        if getattr(given, name) < 1:
            parser.error(f"{_option(name)} {getattr(given, name)}: give 1 or more")
    if given.max_decoded_mib <= 0:
        parser.error(f"--max-decoded-mib {given.max_decoded_mib}: give more than 0")
    if given.min_free_mib < 0:
        parser.error(f"--min-free-mib {given.min_free_mib}: give 0 or more")
    if given.check and given.link:
        parser.error("--check and --link: give one of them")
    certificate, key = (path and path.expanduser().absolute() for path in (given.tls_cert, given.tls_key))
    if (certificate or key) and not (given.check or given.link):
        try:
            check_pair(certificate, key)
        except TlsError as error:
            parser.error(str(error))
    return {
        **{name: getattr(given, name) for name in _COUNTS},
        "max_decoded_bytes": int(given.max_decoded_mib * MIB),
        "min_free_bytes": int(given.min_free_mib * MIB),
        "tls_cert": certificate,
        "tls_key": key,
        "log_format": given.log_format,
        "log_level": given.log_level,
        "with_parent": given.with_parent,
        "task": "check" if given.check else "link" if given.link else "serve",
    }


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
