# SPDX-License-Identifier: Apache-2.0
"""The ablation's variants differ in what they say and in nothing else, and train into models that can be compared."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hvg3d_core.checkpoints.registry import find_model
from hvg3d_core.conditions import load_clip, network_inputs
from hvg3d_core.generate import GenerationRequest, generate, load_model
from hvg3d_core.training.ablation import load_variants, run_ablation
from hvg3d_core.training.cache import CONDITIONS, LatentCache
from hvg3d_core.training.config import ConfigError, TrainingError
from hvg3d_core.training.curves import draw_curves, read_log, smoothed
from hvg3d_core.training.dataset import find_samples
from tests.core.training.conftest import hvg3d, write_config

TINY = """
extends = "small.toml"
[control]
steps = 3
[variants.full]
title = "Full"
[variants.no_tracking]
summary = "points alone"
[variants.no_tracking.control]
tracking_dropout = 1.0
points_dropout = 0.0
[variants.das.control]
points_dropout = 0.0
[variants.das.control.transformer]
num_control_blocks = 1
chain_through_zero = true
share_text_stream = true
point_cloud = false
[variants.surface.video]
visible_only = false
"""


def differences(a: dict[str, Any], b: dict[str, Any], where: str = "") -> dict[str, tuple[Any, Any]]:
    found = {}
    for key in a.keys() | b.keys():
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found |= differences(left, right, f"{where}{key}.")
        elif left != right:
            found[where + key] = (left, right)
    return found


def test_shipped_variants_differ_from_the_full_one_only_in_what_is_ablated():
    variants = load_variants()
    full = asdict(variants["full"].config)
    expected = {
        "no_points": {"point_cloud", "point_reference_features", "point_reference_per_frame"},
        "das": {
            *("point_cloud", "point_reference_features", "point_reference_per_frame"),
            *("num_control_blocks", "chain_through_zero", "share_text_stream"),
        },
        "no_tracking": {"tracking_dropout", "points_dropout"},
        "geometry_only": {"point_reference_features", "point_reference_per_frame"},
        "interpolate": {"resampler"},
        "no_mask_loss": {"mask_loss"},
        "surface_points": {"visible_only"},
    }
    assert variants.keys() == {"full", *expected}
    for name, keys in expected.items():
        found = {key.rpartition(".")[2] for key in differences(asdict(variants[name].config), full)}
        # With one kind of condition there is nothing to drop it for.
        assert found - {"name", "points_dropout", "tracking_dropout"} == keys - {"points_dropout", "tracking_dropout"}
    assert len({(v.config.control.seed, v.config.control.steps, v.config.data) for v in variants.values()}) == 1


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    write_config(folder, small / "start")
    (folder / "ablation.toml").write_text(TINY)
    variants = load_variants(folder / "ablation.toml")
    return folder, variants, run_ablation(list(variants.values()), small / "out", small / "data", folder / "out")


def test_every_variant_becomes_a_model_that_reads_the_conditions_it_was_trained_with(trained, small):
    folder, variants, packed = trained
    assert [find_model(str(path)).conditions for path in packed] == [
        ["points", "tracking"],
        ["points"],
        ["tracking"],
        ["points", "tracking"],
    ]
    clip = load_clip(next((small / "data" / "heldout").glob("*.clip.safetensors")))
    for path in packed:
        result = generate(load_model(str(path)), clip, GenerationRequest(num_inference_steps=1))
        assert result.frames.shape == (9, 32, 48, 3) and np.ptp(result.frames) > 0
    settings = {
        name: json.loads((folder / "out" / name / "packed" / "hvg3d_inputs.json").read_text()) for name in variants
    }
    assert settings["surface"]["visible_only"] is False and settings["full"]["visible_only"] is True
    # Its latents were made for it, and only for it.
    assert [path.name for path in (folder / "out").glob("cache_*")] == ["cache_surface"]
    ours, shared = LatentCache(folder / "out" / "cache_surface"), LatentCache(small / "out" / "cache")
    everything = torch.arange(len(shared))
    one, other = ours.batch(everything), shared.batch(everything)
    assert one.keys() == other.keys() and ours.names == shared.names
    assert all(torch.equal(one[key], other[key]) for key in one if key not in CONDITIONS)
    # A clip as it is made anew is a clip as it is made from the start.
    whole = load_variants(folder / "ablation.toml")["surface"].config
    sample = next(s for s in find_samples(small / "data" / "train") if s.name == ours.names[0])
    expected = network_inputs(sample.clip(), num_frames=9, width=48, height=32, num_points=64, visible_only=False)
    np.testing.assert_array_equal(one["point_valid"][0], expected.point_valid)
    assert not whole.video.visible_only and not torch.equal(one["point_valid"], other["point_valid"])


def test_curves_show_every_variants_loss(trained):
    folder, variants, _ = trained
    logs = {name: folder / "out" / name / "control_run" / "log.jsonl" for name in variants}
    draw_curves(logs, folder / "curves.png")
    picture = np.asarray(Image.open(folder / "curves.png").convert("RGB")).reshape(-1, 3)
    colours = {tuple(c) for c in picture[np.ptp(picture.astype(int), axis=1) > 80].tolist()}
    assert len(colours) >= len(variants)  # a line of its own colour for each
    with open(logs["full"], "a") as file:  # a step done again after a kill
        file.write(json.dumps({"step": 2, "loss": 7.0, "plain": 9.0}) + "\n")
    steps, numbers = read_log(logs["full"])
    assert steps.tolist() == [2] and numbers["plain"].tolist() == [9.0]
    np.testing.assert_allclose(smoothed(np.array([1.0, 3.0, 5.0]), 2), [1.0, 2.0, 4.0])
    with pytest.raises(TrainingError, match=r"nothing.*train that variant first"):
        draw_curves({"x": folder / "nothing"}, folder / "x.png")


def test_a_second_run_trains_nothing_again(trained, small):
    folder, variants, packed = trained
    before = [(path / "model_index.json").stat().st_mtime_ns for path in packed]
    assert run_ablation(list(variants.values()), small / "out", small / "data", folder / "out") == packed
    assert before == [(path / "model_index.json").stat().st_mtime_ns for path in packed]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace('extends = "small.toml"', ""), "extends is None"),
        (lambda text: text[: text.index("[variants")], "variants is {}"),
        (
            lambda text: text.replace("tracking_dropout = 1.0", "tracking_drop = 1.0"),
            "variants.no_tracking.*tracking_drop",
        ),
        (lambda text: text.replace("small.toml", "gone.toml"), "gone.toml: no such"),
    ],
)
def test_mistakes_are_named(tmp_path, change, words):
    write_config(tmp_path, "nano")
    path = tmp_path / "ablation.toml"
    path.write_text(change(TINY))
    with pytest.raises(ConfigError, match=words):
        load_variants(path)


def test_an_unknown_variant_is_answered_with_the_known_ones(tmp_path):
    done = hvg3d("ablation", "--variant", "fulll", "--out", tmp_path, check=False)
    assert done.returncode != 0 and "'fulll'" in done.stderr and "no_points" in done.stderr
