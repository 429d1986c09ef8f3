# SPDX-License-Identifier: Apache-2.0
"""``hvg3d batch``: many shots of many files, by a local server or one elsewhere.

The batch itself is the add-on's (``blender_addon/batch`` says why) and runs as a process of its own. This starts the
server, where none is named, and shows how far it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

WHAT, HOW = "What to make", "How to make it"
_ENDING_SECONDS = 20
_STATES = ("exporting", "sending", "queued", "running")  # in the order of a shot's way


def batch(
    source: Annotated[
        Path, typer.Argument(help="a folder of .blend files and clips, one such file, or a plan (.toml)")
    ],
    scene: Annotated[
        list[str] | None, typer.Option(help="a scene's name, or all; all that have marks", rich_help_panel=WHAT)
    ] = None,
    camera: Annotated[
        list[str] | None, typer.Option(help="a camera's name, own (the shot's), or all; own", rich_help_panel=WHAT)
    ] = None,
    action: Annotated[
        list[str] | None, typer.Option(help="an action's name, own (as it is), or all; own", rich_help_panel=WHAT)
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="such as 1,2,5-8; the scene's own", rich_help_panel=WHAT)] = None,
    seed_count: Annotated[
        int | None, typer.Option(help="so many seeds, from the scene's own on", rich_help_panel=WHAT)
    ] = None,
    model: Annotated[str | None, typer.Option(help="a model's id; the scene's own", rich_help_panel=WHAT)] = None,
    prompt: Annotated[str | None, typer.Option(help="in place of the scene's own", rich_help_panel=WHAT)] = None,
    quality: Annotated[str | None, typer.Option(help="draft, standard or fine", rich_help_panel=WHAT)] = None,
    steps: Annotated[int | None, typer.Option(help="denoising steps", rich_help_panel=WHAT)] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for everything; out/batch, or what the plan says", rich_help_panel=HOW)
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(help="address, home folder, or 'local'; one is started if left out", rich_help_panel=HOW),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="token for that address (else HVG3D_TOKEN)", rich_help_panel=HOW)
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM file of who issued its certificate", rich_help_panel=HOW)
    ] = None,
    blender: Annotated[
        str | None, typer.Option(help="Blender's program; else the PATH's, else the bpy module", rich_help_panel=HOW)
    ] = None,
    trust_scripts: Annotated[
        bool, typer.Option("--trust-scripts", help="run Python that is in the .blend files", rich_help_panel=HOW)
    ] = False,
    in_flight: Annotated[
        int | None, typer.Option(help="jobs on the server at the same time; 8", rich_help_panel=HOW)
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="try again what has failed before", rich_help_panel=HOW)
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list the shots, make nothing", rich_help_panel=HOW)
    ] = False,
) -> None:
    """Make many videos: scenes x cameras x actions x seeds. Interrupted and started again, it goes on.

    At the end there is a page with all results and failures, DIR/report.html.
    """
    from ..client import default_home

    given: dict[str, Any] = {
        "scene": scene,
        "camera": camera,
        "action": action,
        "seeds": seeds,
        "seed-count": seed_count,
        "model": model,
        "prompt": prompt,
        "quality": quality,
        "steps": steps,
        "out": out,
        "token-file": token_file,
        "blender": blender,
        "trust-scripts": trust_scripts,
        "in-flight": in_flight,
        "retry-failed": retry_failed,
        "dry-run": dry_run,
    }
    command = [sys.executable, "-m", "blender_addon.batch", str(source), *_options(given)]
    if dry_run:
        raise typer.Exit(subprocess.run(command).returncode)
    environment = dict(os.environ)
    if certificate is not None:
        environment["SSL_CERT_FILE"] = str(certificate.absolute())
    if server is not None:
        raise typer.Exit(
            _follow([*command, "--server", str(default_home()) if server == "local" else server], environment)
        )
    with _own_server(_folder(source, out) / "server", model) as address:
        raise typer.Exit(_follow([*command, "--server", address], environment))


def _options(given: dict[str, Any]) -> list[str]:
    options: list[str] = []
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            if one is True:
                options.append(f"--{name}")
            elif one is not None and one is not False:
                options.append(f"--{name}={one}")
    return options


def _folder(source: Path, out: Path | None) -> Path:
    """Where the batch will work: the option, or what the plan says, counted from the plan, or the usual one."""
    if out is None and source.suffix == ".toml":
        try:
            named = tomllib.loads(source.read_text("utf-8")).get("out")
        except (OSError, ValueError):
            named = None  # the batch itself will say what is wrong with it
        if isinstance(named, str):
            return source.parent / named
    return out or Path("out/batch")


@contextmanager
def _own_server(home: Path, model: str | None) -> Iterator[str]:
    """A server of the batch's own, on a free port of this machine, which ends with this process, however that ends."""
    from ..client import Client, ClientError
    from .client import ServerError, running_server

    with contextlib.suppress(ClientError):  # that of a batch that was killed a moment ago may still be ending
        for _ in range(_ENDING_SECONDS):
            with Client.at_home(home, patience=0) as last:
                last.health()
            time.sleep(1)
        raise typer.BadParameter(f"another batch works in {home.parent}; wait for its end, or choose another folder")
    try:
        with running_server(home, model=model or "nano"):
            yield str(home)
    except ServerError as error:
        typer.secho(f"hvg3d batch: {error}", fg="red", err=True)
        raise typer.Exit(2) from None


def _follow(command: list[str], environment: dict[str, str]) -> int:
    """Run the batch, show its progress, return its exit code. Ctrl-C ends it in order: it can be gone on with."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    process = subprocess.Popen(
        [*command, "--json", "--end-with-parent"],
        stdin=subprocess.PIPE,  # its end tells the batch that we are gone
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
        start_new_session=os.name != "nt",
    )
    rows: dict[str, dict[str, Any]] = {}
    end: dict[str, Any] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    assert process.stdout is not None
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Looking at the files", total=None)
        while True:
            try:
                for line in process.stdout:
                    event = json.loads(line)
                    if event["event"] == "end":
                        end = event
                        continue
                    before = rows.get(event["id"], {}).get("state")
                    rows[event["id"]] = event
                    if event["state"] != before:
                        _tell(progress.console, event)
                    states = [row["state"] for row in rows.values()]
                    through = sum(state in ("done", "failed") for state in states)
                    counts = [f"{states.count(state)} {state}" for state in _STATES if state in states]
                    progress.update(
                        task, total=len(rows), completed=through, description=", ".join(counts) or "Waiting"
                    )
                break
            except KeyboardInterrupt:
                progress.update(task, description="Stopping")
                process.send_signal(signal.SIGINT)
    code = process.wait()
    if end:
        _conclude(console, end)
    return code


def _tell(console: Any, row: dict[str, Any]) -> None:
    from rich.markup import escape

    kept = " [dim](from before)[/dim]" if row["kept"] else ""
    if row["state"] == "done":
        console.print(f"[green]done[/green]   {escape(row['label'])}{kept}")
    elif row["state"] == "failed":
        console.print(f"[red]failed[/red] {escape(row['label'])}{kept}")
        console.print(f"       {escape(row['message'])}. {escape(row['remedy'])}", style="dim")


def _conclude(console: Any, end: dict[str, Any]) -> None:
    from rich.markup import escape

    console.print(escape(end["text"]), style="bold")
    if end["message"]:
        console.print(f"[red]{escape(end['message'])}[/red] {escape(end['remedy'])}")
    if end["left"]:
        console.print(f"{end['left']} are not made yet. Run the same command again, and it goes on.")
    if end["report"]:
        typer.echo(end["report"])
