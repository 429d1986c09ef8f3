# SPDX-License-Identifier: Apache-2.0
"""Networks as files: diffusers folders with one file or with shards, and one file that says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from safetensors.torch import load_file, save_file

from hvg3d_core.models import HVG3DTransformer3DModel
from hvg3d_core.models.single_file import load_single_file, save_single_file

from .tiny import point_inputs, tiny_model, tracking_latents, trained, video_inputs

CONFIGS = [{}, {"num_control_blocks": 1, "chain_through_zero": True, "share_text_stream": True, "point_cloud": False}]


def run(model: HVG3DTransformer3DModel) -> torch.Tensor:
    points = point_inputs() if model.config.point_cloud else {}
    with torch.no_grad():
        return model(**video_inputs(), tracking_latents=tracking_latents(), **points, return_dict=False)[0]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("max_shard_size", ["10GB", "100KB"])
def test_diffusers_folders(tmp_path: Path, config: dict, max_shard_size: str) -> None:
    model = trained(tiny_model(**config))
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    shards = sorted(tmp_path.glob("*.safetensors"))
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    assert index.exists() == (len(shards) > 1) == (max_shard_size == "100KB")
    if index.exists():
        assert {p.name for p in shards} == set(json.loads(index.read_text())["weight_map"].values())
    loaded = HVG3DTransformer3DModel.from_pretrained(tmp_path)
    assert torch.equal(run(loaded), run(model))
    assert {k: v for k, v in loaded.config.items() if k[0] != "_"} == {
        k: v for k, v in model.config.items() if k[0] != "_"
    }


def test_from_pretrained_and_save_pretrained_are_diffusers_own() -> None:
    for name in ("from_pretrained", "save_pretrained", "load_config", "from_config"):
        ours, theirs = getattr(HVG3DTransformer3DModel, name), getattr(CogVideoXTransformer3DModel, name)
        assert getattr(ours, "__func__", ours) is getattr(theirs, "__func__", theirs)


@pytest.mark.parametrize("config", CONFIGS)
def test_one_file_carries_its_configuration(tmp_path: Path, config: dict) -> None:
    model = trained(tiny_model(**config, tracking_range="zero_one"))
    path = tmp_path / "network.safetensors"
    save_single_file(model, path)
    assert [p.name for p in tmp_path.iterdir()] == ["network.safetensors"]
    loaded = load_single_file(path)
    assert loaded.config.tracking_range == "zero_one"
    assert torch.equal(run(loaded), run(model))
    half = load_single_file(path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_a_file_that_is_not_one_of_ours_is_named(tmp_path: Path) -> None:
    model, path = tiny_model(), tmp_path / "network.safetensors"
    save_file(model.state_dict(), path)
    with pytest.raises(ValueError, match=r"network.safetensors: no configuration"):
        load_single_file(path)
    save_single_file(model, path)
    metadata = {"format": "pt", "hvg3d_config": model.to_json_string()}
    fewer = {k: v for k, v in load_file(path).items() if k != "zero.0.bias"}
    save_file(fewer, path, metadata=metadata)
    with pytest.raises(ValueError, match=r"1 weights are missing, 0 unknown, first of all zero.0.bias"):
        load_single_file(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"network.safetensors: not a whole safetensors file"):
        load_single_file(path)


def test_a_model_without_a_point_cloud_has_no_such_weights_and_refuses_points() -> None:
    model = trained(tiny_model(point_cloud=False))
    assert not any(name.startswith("point_") for name in model.state_dict())
    assert model.fuse.in_features == model.fuse.out_features
    with pytest.raises(ValueError, match="points: this model takes no point cloud"):
        model(**video_inputs(), **point_inputs())
    with pytest.raises(ValueError, match="points: this model takes no point cloud"):
        model.encode_point_cloud(**point_inputs())
