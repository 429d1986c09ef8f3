# SPDX-License-Identifier: Apache-2.0
"""``hvg3d models``: what there is, and bringing it here."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Models: list, pull, remove, verify, convert-das.", invoke_without_command=True)


@app.callback()
def models(context: typer.Context) -> None:
    """Models: what each is, its licence, its size, the memory it needs, whether it is here."""
    if context.invoked_subcommand is None:
        list_command()


def size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


@app.command(name="list")
def list_command() -> None:
    """What there is: licence, size, memory, and whether it is on this machine."""
    from ..checkpoints.registry import list_entries, models_home

    for entry in list_entries():
        state = f"{size(entry.bytes)}, installed" if entry.installed else f"{size(entry.bytes)} to download"
        typer.echo(f"{entry.id}: {entry.title} ({entry.licence}; {state})\n  {entry.summary}")
        if entry.memory:
            needs = ", ".join(f"{size(count)} with {mode}" for mode, count in entry.memory.items())
            typer.echo(f"  weights in memory: {needs}")
        if not entry.installed:
            typer.echo(f"  get it: hvg3d models pull {entry.id}")
    typer.echo(f"models are kept in {models_home()} (HVG3D_MODELS names another folder)")


@app.command()
def pull(
    model: Annotated[str, typer.Argument(help="its id, see hvg3d models list")],
    accept_licence: Annotated[bool, typer.Option(help="agree to the licence without being asked")] = False,
    local: Annotated[Path | None, typer.Option("--from", help="a folder with the files, in place of the hub")] = None,
    mirror: Annotated[str | None, typer.Option(help="address of another hub (else HF_ENDPOINT)")] = None,
    offline: Annotated[bool, typer.Option(help="use only what has been downloaded already")] = False,
    force: Annotated[bool, typer.Option(help="again, although it is here")] = False,
    keep_download: Annotated[bool, typer.Option(help="keep the files as they came, too")] = False,
    tracking_range: Annotated[
        str, typer.Option(help="of a converted DaS: minus_one_one as in its training, zero_one as in its demo")
    ] = "minus_one_one",
) -> None:
    """Fetch a model. Broken off, the same command goes on where it was."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's library is imported, so that nothing of it asks
    from ..checkpoints.install import pull as fetch
    from ..checkpoints.registry import Source

    def agree(source: Source) -> bool:
        typer.echo(
            f"{source.id} is under: {source.licence.name}\n{source.licence.url}\n{source.licence.terms.strip()}\n"
        )
        if accept_licence:
            typer.echo("accepted (--accept-licence)")
            return True
        return sys.stdin.isatty() and typer.confirm("Do you accept this licence?")

    entry = fetch(
        model,
        accept_licence=agree,
        local=local,
        mirror=mirror,
        offline=offline,
        force=force,
        keep_download=keep_download,
        tracking_range=tracking_range,
        report=typer.echo,
    )
    typer.echo(f"{entry.id}: {size(entry.bytes)} in {entry.path}")


@app.command()
def remove(
    model: Annotated[str, typer.Argument(help="its id")],
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Delete a model from this machine, and what has been downloaded for it."""
    from ..checkpoints.install import remove as delete
    from ..checkpoints.registry import ModelError

    if not yes and not (sys.stdin.isatty() and typer.confirm(f"Delete {model} from this machine?")):
        raise ModelError(f"{model}: kept; --yes deletes it without asking")
    typer.echo(f"{model} removed, {size(delete(model))} freed")


@app.command()
def verify(
    model: Annotated[str, typer.Argument(help="its id, or a pipeline folder")],
) -> None:
    """Check that a model's files are what they were when it was installed."""
    from ..checkpoints.install import verify as check
    from ..checkpoints.registry import catalogue

    count = 0

    def checked(name: str) -> None:
        nonlocal count
        count += 1

    wrong = check(model, checked)
    for line in wrong:
        typer.echo(line)
    if wrong:
        remedy = f"; hvg3d models pull {model} --force fetches it again" if model in catalogue() else ""
        typer.secho(f"hvg3d: {model}: {len(wrong)} of {count} files are wrong{remedy}", fg="red", err=True)
        raise typer.Exit(1)
    typer.echo(f"{model}: {count} files, all as they should be")


@app.command(name="convert-das")
def convert_das(
    folder: Annotated[Path, typer.Argument(help="DaS as released: pipeline folder, its transformer, or a safetensors")],
    out: Annotated[Path | None, typer.Option(help="folder to make; the models' own if left out")] = None,
    seed_hvg3d: Annotated[
        bool,
        typer.Option("--seed-hvg3d", help="a start for training HVG-3D: all blocks copied, a point branch at zero"),
    ] = False,
    base: Annotated[
        Path | None, typer.Option(help="CogVideoX-5B-I2V's folder, for its weights and what FOLDER has not")
    ] = None,
    tracking_range: Annotated[
        str, typer.Option(help="minus_one_one as in DaS's training, zero_one as in its released demo")
    ] = "minus_one_one",
    dtype: Annotated[str, typer.Option(help="'as stored', bfloat16, float16 or float32")] = "as stored",
    max_shard_gb: Annotated[float, typer.Option(min=0.001, help="of a file; about as much memory is used")] = 1.0,
    seed: Annotated[int, typer.Option(help="of the fresh point branch")] = 0,
    summary: Annotated[bool, typer.Option("--summary", help="print the summary alone; conversion.txt has all")] = False,
) -> None:
    """Make a model of the released Diffusion as Shader weights; prints every tensor used, skipped and filled."""
    from ..checkpoints.convert_das import convert_das as convert
    from ..checkpoints.manifest import write_manifest
    from ..checkpoints.registry import models_home

    target = out or models_home() / ("hvg3d-5b" if seed_hvg3d else "das")
    conversion = convert(
        folder,
        target,
        base=base,
        seed_hvg3d=seed_hvg3d,
        tracking_range=tracking_range,
        dtype=dtype,
        max_shard_bytes=int(max_shard_gb * 1e9),
        seed=seed,
        report=(lambda line: None) if summary else typer.echo,
    )
    write_manifest(target, {"folder": str(folder.absolute())})
    typer.echo(f"{conversion.summary()}\n{target}")
