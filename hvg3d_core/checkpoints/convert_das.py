# SPDX-License-Identifier: Apache-2.0
"""The weights of Diffusion as Shader (DaS), as released, made into a model of ours.

DaS's network is ours with other names (b a block, i its number, D the width):

| DaS                               | here                                                                     |
|-----------------------------------|--------------------------------------------------------------------------|
| ``transformer_blocks_copy.i.b``   | ``control_blocks.i.b``                                                   |
| ``combine_linears.i``             | ``zero.i``                                                               |
| ``initial_combine_linear`` (D, D) | ``fuse`` (D, D); with a point cloud (D, 2D), its columns for points zero |
| everything else                   | the same name: the frozen base                                           |

``chain_through_zero`` and ``share_text_stream`` make the wiring DaS's. A start for training HVG-3D (``seed_hvg3d``)
keeps that wiring, for its weights mean nothing in another: further blocks are copies of the base's, after them zero
layers that are zero, and a fresh point branch behind zero columns, so that untrained it still computes what DaS does.
"""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor

from ..models.configs import transformer_config
from ..models.transformer import HVG3DTransformer3DModel, materialise
from .pipeline_folder import check_space, finish_pipeline
from .registry import ModelError
from .weights import ShardWriter, Weights, as_stored, open_weights

BRANCH = ("transformer_blocks_copy.", "combine_linears.", "initial_combine_linear.")
POINT_BRANCH = ("point_encoder", "point_resampler", "point_patch_embed")
GIGABYTE = 10**9
Network = Any  # HVG3DTransformer3DModel, whose base class comes from a package without types
DTYPES = {"as stored": None, "bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Step:
    """One tensor of the new model: from which of the old ones, or from where else."""

    target: str
    shape: tuple[int, ...]
    source: str | None  # name in DaS's weights, or in the base's
    from_base: bool  # it is the frozen base's, so that other weights of the base may give it
    note: str = ""  # what is made of it
    filled: bool = False  # DaS has nothing of the kind


@dataclass(frozen=True)
class Conversion:
    """What was done with every tensor."""

    steps: list[Step]
    skipped: list[tuple[str, str]]  # DaS's name, why
    config: dict[str, Any]
    parameters: dict[str, int]  # numbers in the tensors, by "used" and "filled"
    total_bytes: int
    base_differences: list[str]  # of the base's tensors, those that DaS's file has otherwise than the base given

    def lines(self) -> Iterator[str]:
        """One line for every tensor of either model."""
        for step in self.steps:
            renamed = f"{step.source} -> {step.target}" if step.source not in (None, step.target) else step.target
            note = f": {step.note}" if step.note else ""
            yield f"{'filled  ' if step.filled else 'used    '} {renamed}  {step.shape}{note}"
        for name, why in self.skipped:
            yield f"skipped  {name}: {why}"

    def summary(self) -> str:
        filled = [step for step in self.steps if step.filled]
        branch = sum(not step.filled and not step.from_base for step in self.steps)
        text = (
            f"used {len(self.steps) - len(filled)} tensors ({self.parameters['used'] / 1e6:.1f} M numbers; {branch} of "
            f"DaS's branch, the others the base's), filled {len(filled)} ({self.parameters['filled'] / 1e6:.1f} M), "
            f"skipped {len(self.skipped)}; {self.total_bytes / GIGABYTE:.2f} GB"
        )
        if self.base_differences:
            text += (
                f"\n{len(self.base_differences)} tensors of the base differ between DaS's file and the base given, "
                f"first of all {self.base_differences[0]}; the base's were used"
            )
        return text


def read_config(weights: Weights) -> dict[str, Any]:
    """``config.json`` beside the weights; that of the released model where there is none. Shapes are checked later."""
    file = weights.folder / "config.json"
    if not file.exists():
        return transformer_config("das")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ModelError(f"{file}: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{file}: not a configuration")
    return config


def count_copies(weights: Weights, config: dict[str, Any]) -> int:
    """How many blocks DaS copied. Raises ModelError where the weights contradict themselves or the configuration."""
    found = {prefix: {n.split(".")[1] for n in weights if n.startswith(prefix)} for prefix in BRANCH[:2]}
    count = len(found[BRANCH[0]])
    if not count or not any(name.startswith(BRANCH[2]) for name in weights):
        raise ModelError(
            f"{weights.folder}: these are not the weights of Diffusion as Shader: no tensor's name begins with "
            f"{next(p for p in BRANCH if not any(n.startswith(p) for n in weights))}"
        )
    for prefix, numbers in found.items():
        if numbers != {str(i) for i in range(count)}:
            raise ModelError(
                f"{weights.folder}: {prefix}* is there for {', '.join(sorted(numbers))}, not 0 to {count - 1}"
            )
    said = config.get("num_tracking_blocks", count)
    if said != count:
        raise ModelError(f"{weights.folder}: num_tracking_blocks is {said}, but there are {count} copies")
    return count


def target_model(weights: Weights, tracking_range: str, seed_hvg3d: bool) -> Network:
    """Our model of that size, on the meta device: names and shapes without weights."""
    config = read_config(weights)
    copies = count_copies(weights, config)
    accepted = inspect.signature(HVG3DTransformer3DModel.__init__).parameters
    ours = {
        k: v for k, v in transformer_config("hvg3d-5b").items() if k.startswith(("point_", "num_point", "resampler"))
    }
    settings = {name: value for name, value in config.items() if name in accepted} | {
        "num_control_blocks": config.get("num_layers", 30) if seed_hvg3d else copies,
        "chain_through_zero": True,
        "share_text_stream": True,
        "tracking_range": tracking_range,
        **({**ours, "point_cloud": True} if seed_hvg3d else {"point_cloud": False}),
    }
    try:
        with init_empty_weights(include_buffers=True), torch.device("meta"):
            return HVG3DTransformer3DModel(**settings)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{weights.folder / 'config.json'}: {error}") from None


def plan(model: Network, weights: Weights, base: Weights) -> tuple[list[Step], list[tuple[str, str]]]:
    """What becomes of every tensor. Raises ModelError for one that is missing or of another shape."""
    copies = count_copies(weights, {})
    dim = model.fuse.out_features
    steps = []
    for target, tensor in model.state_dict().items():
        shape = tuple(tensor.shape)
        head, _, rest = target.partition(".")
        copied = head in ("control_blocks", "zero") and int(rest.partition(".")[0]) < copies
        source, needed, from_base, note, filled = target, shape, True, "", False
        if copied:
            source, from_base = (
                f"{'transformer_blocks_copy' if head == 'control_blocks' else 'combine_linears'}.{rest}",
                False,
            )
        elif head == "control_blocks":
            source, note, filled = f"transformer_blocks.{rest}", "copied from the base", True
        elif head == "zero":
            source, note, filled = None, "zeros", True
        elif head == "fuse":
            source, from_base = f"initial_combine_linear.{rest}", False
            needed = (dim, dim) if rest == "weight" else shape
            note = "zeros in the point cloud's columns" if needed != shape else ""
        elif head in POINT_BRANCH:
            source, note, filled = None, "freshly drawn", True
        if source is not None:
            holder = base if from_base else weights
            if source not in holder:
                remedy = "" if base is not weights or not from_base else "; name a folder of CogVideoX-5B-I2V (--base)"
                raise ModelError(f"{holder.folder}: {source} is missing{remedy}")
            if holder.shape(source) != needed:
                raise ModelError(
                    f"{holder.folder}: {source} has shape {holder.shape(source)}, but config.json asks for {needed}"
                )
        steps.append(Step(target, shape, source, from_base, note, filled))
    read = {step.source for step in steps if step.source and (not step.from_base or base is weights)}
    base_names = {step.source for step in steps if step.from_base}
    skipped = []
    for name in weights:
        if name in read:
            continue
        if name in base_names:
            why = "the base given is used in its place"
        elif ".to_qkv." in name:
            why = "left over from fused projections; to_q, to_k and to_v say the same"
        else:
            why = "not known: neither DaS nor CogVideoX-5B-I2V has a tensor of this name"
        skipped.append((name, why))
    return steps, skipped


def write_transformer(
    steps: list[Step],
    model: Network,
    weights: Weights,
    base: Weights,
    out: Path,
    *,
    dtype: torch.dtype | None,
    max_shard_bytes: int,
    seed: int,
) -> tuple[dict[str, int], int, list[str]]:
    """Write config and weights, tensor by tensor. Returns numbers by kind, bytes, and how the bases differ."""
    stored = dtype or as_stored(base["proj_out.weight"], None).dtype
    fresh: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in POINT_BRANCH if model.config.point_cloud else ():
            drawn = materialise(getattr(model, name)).state_dict()
            fresh.update({f"{name}.{key}": tensor for key, tensor in drawn.items()})
    writer = ShardWriter(out, max_shard_bytes)
    counts, differences = {"used": 0, "filled": 0}, []
    for step in steps:
        if step.source is None:
            tensor = fresh[step.target].to(stored) if step.target in fresh else torch.zeros(step.shape, dtype=stored)
        else:
            tensor = (base if step.from_base else weights)[step.source]
            if step.from_base and not step.filled and base is not weights and step.source in weights:
                other = weights[step.source]
                if other.shape != tensor.shape or not torch.equal(other.to(tensor.dtype), tensor):
                    differences.append(step.source)
            # Two names for one piece of a mapped file are two tensors in the new one.
            tensor = as_stored(tensor.clone() if step.filled else tensor, dtype)
        counts["filled" if step.filled else "used"] += tensor.numel()
        if tuple(tensor.shape) != step.shape:  # fuse, whose second half reads the point cloud
            counts["filled"] += tensor.numel()
            tensor = torch.cat([tensor, torch.zeros_like(tensor)], dim=1)
        if writer.add(step.target, tensor):
            weights.release()
            base.release()
    writer.close()
    model.save_config(out)
    return counts, writer.total_bytes, differences


def convert_das(
    folder: Path,
    out: Path,
    *,
    base: Path | None = None,
    seed_hvg3d: bool = False,
    tracking_range: str = "minus_one_one",
    dtype: str = "as stored",
    max_shard_bytes: int = GIGABYTE,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Conversion:
    """Make a pipeline folder ``out`` of DaS's released folder. About one shard is in memory at a time.

    folder: a pipeline folder, its ``transformer``, or a safetensors file. base: CogVideoX-5B-I2V's pipeline folder, for
    the base's weights and for what ``folder`` has not (VAE, text encoder, tokenizer, scheduler). tracking_range: in
    which the tracking video goes to the VAE; ``minus_one_one`` is what DaS was trained with, ``zero_one`` what its
    released demo does. dtype: a name in ``DTYPES``. seed: of the fresh point branch. report: gets a line per tensor.

    ``out`` appears when it is complete. Raises ModelError.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r}: use one of {', '.join(DTYPES)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"{out}: there is something already; choose another folder or remove it")
    partial = out.parent / f".{out.name}.partial"
    weights = open_weights(folder)
    base_weights = open_weights(base) if base is not None else weights
    model = target_model(weights, tracking_range, seed_hvg3d)
    steps, skipped = plan(model, weights, base_weights)
    widths = {None: 2 if base_weights["proj_out.weight"].dtype.itemsize == 2 else 4, torch.float32: 4}
    elements = sum(tensor.numel() for tensor in model.state_dict().values())
    out.parent.mkdir(parents=True, exist_ok=True)
    check_space(out.parent, elements * widths.get(DTYPES[dtype], 2), "the converted network")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        counts, total, differences = write_transformer(
            steps,
            model,
            weights,
            base_weights,
            partial / "transformer",
            dtype=DTYPES[dtype],
            max_shard_bytes=max_shard_bytes,
            seed=seed,
        )
        conversion = Conversion(steps, skipped, dict(model.config), counts, total, differences)
        (partial / "conversion.txt").write_text(
            "\n".join([*conversion.lines(), conversion.summary()]) + "\n", encoding="utf-8"
        )
        finish_pipeline(partial, [p for p in (folder, base) if p is not None], model.config, seed_hvg3d)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for line in conversion.lines():
        report(line)
    return conversion
