# SPDX-License-Identifier: GPL-3.0-or-later
"""A batch over a folder or a plan: ``python -m blender_addon.batch FOLDER|PLAN.toml``; ``hvg3d batch`` runs it.

Prints a line for each shot that is through, or with ``--json`` one JSON object for each change. Exit code 0: all are
done. 1: some are not. 2: the plan cannot be used.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..client.http import Address
from .blender import find_blender
from .files import FileBatch, find_files, list_shots
from .job import Batch
from .options import add_options, address_from, plan_from
from .plan import PlanError
from .state import Busy
from .talk import Speaker

DEFAULT_OUT = "out/batch"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m blender_addon.batch", description=__doc__)
    parser.add_argument(
        "source", type=Path, help="a folder of .blend files and clips, one such file, or a plan (.toml)"
    )
    add_options(parser)
    parser.add_argument("--blender", metavar="PATH", help="Blender's program; else the PATH's, else the bpy module")
    parser.add_argument("--trust-scripts", action="store_true", help="run Python that is in the .blend files")
    parser.add_argument("--patience", type=float, default=300.0, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--end-with-parent", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    try:
        return _run(given, Speaker(given.json))
    except (PlanError, Busy) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}; free some space, or choose another folder with --out", file=sys.stderr)
        return 2


def _run(given: argparse.Namespace, speaker: Speaker) -> int:
    source: Path = given.source
    config = source if source.suffix == ".toml" else None
    plan = plan_from(given, config)
    if not source.exists():
        raise PlanError(f"source: there is no {str(source)!r}; give a folder, a file, or a plan")
    base = source if source.is_dir() else source.parent
    out = _out(given, plan.out, base).absolute()
    if config is None and source.is_file():
        plan = replace(plan, selections=tuple(replace(one, files=(source.name,)) for one in plan.selections))
    files = find_files(plan, base, out)
    found: list[list[str]] = []

    def blender() -> list[str]:
        if not found:
            found.append(find_blender(given.blender))
        return found[0]

    if any(name.endswith(".blend") for name in files):
        blender()
    if given.dry_run:
        out.mkdir(parents=True, exist_ok=True)
        count = 0
        for count, shot in enumerate(  # noqa: B007 - the last number is printed
            list_shots(files, base, blender, out / "blender.log", trust=given.trust_scripts), 1
        ):
            print(f"{shot.label}{f'  ({shot.unit.problem})' if shot.unit.problem else ''}")
        print(f"{count} shots")
        return 0
    if given.server is None:
        raise PlanError("--server: none is given; give its address or its home folder, or use 'hvg3d batch'")
    address = address_from(given, Address)
    batch = Batch(
        out,
        address,
        plan,
        title=source.stem if config else source.resolve().name,
        retry_failed=given.retry_failed,
        patience=given.patience,
        on_change=speaker.row,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: batch.stop())
    if given.end_with_parent:
        _end_with_parent(batch)
    work = FileBatch(batch, files, base, blender, trust=given.trust_scripts)
    feeder = threading.Thread(target=work.run, name="hvg3d files", daemon=True)
    feeder.start()
    while batch.running:  # the main thread stays free for signals
        time.sleep(0.1)
    work.close()
    feeder.join(10)
    return speaker.conclude(batch, batch.close())


def _out(given: argparse.Namespace, written: str | None, base: Path) -> Path:
    """As an option it counts from where we are, in a plan from where the plan is."""
    if given.out is not None:
        return Path(given.out)
    return base / written if written is not None else Path(DEFAULT_OUT)


def _end_with_parent(batch: Batch) -> None:
    def watch() -> None:
        try:
            while os.read(0, 4096):
                pass
        except OSError:
            pass
        batch.stop()

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads that wait for Blender must not hold the end up
