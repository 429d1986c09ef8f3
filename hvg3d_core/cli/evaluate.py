# SPDX-License-Identifier: Apache-2.0
"""``hvg3d eval``: models, their conditions switched off, and videos of one's own against true clips."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

MODELS, NUMBERS, CLIPS = "What is compared", "Numbers", "Clips"


def _parts(values: list[str] | None) -> tuple[str, ...]:
    """Options may be repeated, or their values separated by commas."""
    return tuple(part for value in values or [] for part in value.split(",") if part)


def evaluate(
    data: Annotated[Path, typer.Option(help="folder of clips and their frames", rich_help_panel=CLIPS)] = Path(
        "data/nano/heldout"
    ),
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="a model's id or folder, or NAME=PATH; several are compared. nano if nothing is said",
            rich_help_panel=MODELS,
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="full, points, tracking, dropped (conditions switched off), vae (its ceiling); all for one model, "
            "full for several",
            rich_help_panel=MODELS,
        ),
    ] = None,
    videos: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=DIR with ready videos, CLIP.mp4 and so on, in place of a model", rich_help_panel=MODELS
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="what the others are compared with; repeat (the reference frame)", rich_help_panel=MODELS),
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option(help="only these, or all; see docs/evaluation.md", rich_help_panel=NUMBERS)
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="folder with the weights of metrics' networks, or NETWORK=PATH: lpips, clip, clip_fid, inception, i3d",
            rich_help_panel=NUMBERS,
        ),
    ] = None,
    subset: Annotated[
        list[str] | None,
        typer.Option(help="only clips of these subsets, or KEY=VALUE of the manifest", rich_help_panel=CLIPS),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="only the first so many clips", rich_help_panel=CLIPS)
    ] = None,
    seed: Annotated[int, typer.Option(help="of every generation", rich_help_panel=MODELS)] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="denoising steps; each model's own", rich_help_panel=MODELS)
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="WIDTHxHEIGHT that is compared; the first model's, or the data's", rich_help_panel=NUMBERS),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(min=2, help="frames that are compared; the first model's, or the data's", rich_help_panel=NUMBERS),
    ] = None,
    page: Annotated[bool, typer.Option(help="write the page with the videos side by side")] = True,
    out: Annotated[
        Path, typer.Option(help="folder for index.html, results.json, table.md and the videos; kept between runs")
    ] = Path("out/eval"),
) -> None:
    """Numbers of generated videos against the true clips: for each subset, with intervals, and a page to look at."""
    from ..evaluation.evaluate import Plan, evaluate
    from ..evaluation.table import markdown

    width, height = _size(size)
    plan = Plan(
        data=data,
        out=out,
        models=_parts(model) or (() if videos else ("nano",)),
        variants=_parts(variant),
        videos=_parts(videos),
        metrics=_parts(metrics) or None,
        weights=_parts(weights),
        subsets=_parts(subset) or None,
        baseline=baseline,
        limit=limit,
        seed=seed,
        steps=steps,
        width=width,
        height=height,
        num_frames=frames,
        page=page,
    )
    started = time.monotonic()

    def report(what: str, clip: str, number: int, total: int) -> None:
        typer.echo(f"{time.monotonic() - started:7.1f} s  {what}: {clip} ({number} of {total})", err=True)

    results = evaluate(plan, report)
    typer.echo(markdown(results))
    names = ("results.json", "table.md", *(("index.html",) if page else ()))
    typer.echo(f"written: {', '.join(str(out / name) for name in names)}")


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) > 0 and int(height) > 0):
        raise typer.BadParameter(f"--size {text!r} is not WIDTHxHEIGHT, such as 192x128")
    return int(width), int(height)
