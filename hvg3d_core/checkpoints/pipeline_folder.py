# SPDX-License-Identifier: Apache-2.0
"""What makes a folder with a converted transformer a whole pipeline of ours."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import diffusers

from .registry import ENTRY_FILE, INPUTS_FILE, ModelError, catalogue

PARTS = ("scheduler", "text_encoder", "tokenizer", "vae")
CLASSES = {
    "scheduler": ["diffusers", "CogVideoXDPMScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["hvg3d_core.models.transformer", "HVG3DTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLCogVideoX"],
}


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise ModelError unless ``needed`` bytes are free where ``folder`` is."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            f"{folder}: {what} needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free there; free some, or set "
            "HVG3D_MODELS to a folder on a larger disk"
        )


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name where the disk can, so that 10 GB of text encoder are kept once."""
    source = source.resolve()  # a hub cache is made of symbolic links
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _pipeline_root(folder: Path) -> Path | None:
    """The pipeline folder that a network's folder is part of, or is."""
    for candidate in (folder, folder.parent, folder.parent.parent):
        if (candidate / "model_index.json").is_file():
            return candidate
    return None


def _scheduler(source: Path, target: Path) -> None:
    """DaS samples with DPM and trailing timesteps, whatever the base's scheduler was."""
    config = json.loads((source / "scheduler_config.json").read_text(encoding="utf-8"))
    config |= {"_class_name": "CogVideoXDPMScheduler", "timestep_spacing": "trailing"}
    target.mkdir(parents=True)
    (target / "scheduler_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def finish_pipeline(out: Path, sources: list[Path], config: Any, seeded: bool) -> None:
    """Bring the other parts to ``out`` from the first of ``sources`` that has them, and say how to run it.

    config: the transformer's. seeded: it is a start for training HVG-3D. Raises ModelError where none has a part.
    """
    roots = [root for source in sources if (root := _pipeline_root(source)) is not None]
    classes: dict[str, Any] = {}
    for part in PARTS:
        root = next((root for root in roots if (root / part).is_dir()), None)
        if root is None:
            where = ", ".join(str(source) for source in sources)
            raise ModelError(
                f"{where}: no {part} there; name CogVideoX-5B-I2V's pipeline folder (--base), which has vae, "
                "text_encoder, tokenizer and scheduler"
            )
        classes[part] = json.loads((root / "model_index.json").read_text(encoding="utf-8")).get(part, CLASSES[part])
        if part == "scheduler":
            _scheduler(root / part, out / part)
            continue
        for file in sorted((root / part).rglob("*")):
            if file.is_file() and file.suffix not in (".bin", ".lock") and ".cache" not in file.parts:
                link_or_copy(file, out / part / file.relative_to(root / part))
    for root in roots:
        for licence in root.glob("LICENSE*"):
            if not (out / licence.name).exists():
                link_or_copy(licence, out / licence.name)
    index = {"_class_name": "HVG3DImageToVideoPipeline", "_diffusers_version": diffusers.__version__, **classes}
    index |= {"scheduler": CLASSES["scheduler"], "transformer": CLASSES["transformer"]}
    described = {k: v for k, v in catalogue()["hvg3d-5b" if seeded else "das"].described.items() if k != "bytes"}
    described |= {
        "width": config.sample_width * 8,
        "height": config.sample_height * 8,
        "num_frames": config.sample_frames,
    }
    if config.num_layers != 42:
        described["memory"] = {}  # the catalogue's numbers are the 5B model's
    for name, data in (
        ("model_index.json", dict(sorted(index.items()))),
        (ENTRY_FILE, described),
        (INPUTS_FILE, {"num_points": 4096 if config.point_cloud else 1, "visible_only": config.point_cloud}),
    ):
        (out / name).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
