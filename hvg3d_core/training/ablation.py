# SPDX-License-Identifier: Apache-2.0
"""The ablation: one control branch for each variant of a configuration, all from the same base, data, steps and seed.

Its file is a configuration that ``extends`` another and has a table ``[variants.NAME]`` for each variant, with a
``title``, a ``summary`` and whatever settings are different in it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .cache import Encoder, build_cache, rebuild_conditions, settings_of
from .config import ConfigError, TrainConfig, config_from_table
from .control import train_control
from .hardware import Hardware, only_run_in
from .stages import SHIPPED_CONFIGS, pack
from .start import find_start

PACKED = "packed"
POINT_SETTINGS: dict[str, Any] = {"num_points": 1, "visible_only": True}  # no pixel depends on these


@dataclass(frozen=True)
class Variant:
    """``config`` is whole: what all variants share, which is ``shared``, and what is different in this one."""

    name: str
    title: str
    summary: str
    config: TrainConfig
    shared: TrainConfig


def merged(table: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``table`` with ``changes``, tables within tables too; neither is touched."""
    result = dict(table)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return result


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def load_variants(path: Path | None = None, *, steps: int | None = None) -> dict[str, Variant]:
    """The variants of a file, the shipped one by default, in its order. Raises ConfigError.

    ``extends`` names a shipped configuration or a TOML file beside this one. ``steps`` overrides the file's.
    """
    path = path or SHIPPED_CONFIGS / "ablation" / "nano.toml"
    table = _read(path)
    parent, variants = table.pop("extends", None), table.pop("variants", {})
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: extends is {parent!r}: name a shipped configuration or a TOML file")
    if not isinstance(variants, dict) or not variants:
        raise ConfigError(f"{path}: variants is {variants!r}: a table [variants.NAME] for each is needed")
    shared = merged(
        _read(path.parent / parent if parent.endswith(".toml") else SHIPPED_CONFIGS / f"{parent}.toml"), table
    )
    common = config_from_table(shared, path)
    found = {}
    for name, changes in variants.items():
        changes = dict(changes)
        title, summary = changes.pop("title", name), changes.pop("summary", "")
        whole = merged(merged(shared, changes), {"name": name})
        if steps is not None:
            whole = merged(whole, {"control": {"steps": steps}})
        found[name] = Variant(name, title, summary, config_from_table(whole, f"{path}: variants.{name}"), common)
    return found


def run_ablation(variants: Sequence[Variant], run: Path, data: Path, out: Path) -> list[Path]:
    """Train each variant on the base, VAE and latents in ``run``; returns their packed folders, ``out/NAME/packed``.

    A variant that is packed is left alone, one that was interrupted goes on. Where a variant's conditions are made
    otherwise than those in ``run/cache``, its latents are made anew in ``out/cache_NAME``.
    """
    packed = []
    for variant in variants:
        config, folder = variant.config, out / variant.name
        target = folder / PACKED
        packed.append(target)
        if (target / "model_index.json").exists():
            print(f"{variant.name}: trained already", flush=True)
            continue
        print(f"{variant.name}: {variant.summary}", flush=True)
        hardware = Hardware(config.hardware, config.control.accumulation, config.control.clip_grad_norm)
        try:
            with only_run_in(folder, hardware.main):
                cache = _cache_for(variant, run, data, out, hardware)
                train_control(config, cache, folder, data, hardware, parts=run)
                pack(config, folder / "pipeline", target, parts=run)
        finally:
            hardware.close()
    return packed


def _cache_for(variant: Variant, run: Path, data: Path, out: Path, hardware: Hardware) -> Path:
    """Latents whose conditions are made as the variant says: the run's own, or ``out/cache_NAME``."""
    config, shared = variant.config, variant.shared
    if config.video == shared.video and config.data == shared.data:
        return run / "cache"
    folder, start = out / f"cache_{variant.name}", find_start(config, run)
    if config.data == shared.data and replace(config.video, **POINT_SETTINGS) == replace(
        shared.video, **POINT_SETTINGS
    ):
        rebuild_conditions(config, data / "train", run / "cache", folder, settings_of(config, start.tracking_range))
    else:
        encoder = Encoder(start.load_vae(), hardware, start.tracking_range)
        build_cache(config, data / "train", folder, encoder, config.data.augment)
    return folder
