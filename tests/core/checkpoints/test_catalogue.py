# SPDX-License-Identifier: Apache-2.0
"""The catalogue's numbers follow from the networks' configurations; what lies in the models' folder is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file

from hvg3d_core.checkpoints.registry import SHIPPED, ModelError, catalogue, find_model, list_models, models_home
from hvg3d_core.models import HVG3DTransformer3DModel
from hvg3d_core.models.configs import transformer_config

T5_XXL, VAE = 4_762_000_000 * 2, 215_600_000 * 2  # bytes in bfloat16: numbers of the public models


@pytest.mark.parametrize("name", ["das", "hvg3d-5b"])
def test_bytes_in_memory_are_those_of_the_networks(name: str) -> None:
    sizes = {}
    for config in ("das", name):
        with init_empty_weights(include_buffers=True), torch.device("meta"):
            model = HVG3DTransformer3DModel.from_config(transformer_config(config))
        sizes[config] = 2 * sum(t.numel() for t in model.state_dict().values())
    described = catalogue()[name].described
    resident = sizes[name] + T5_XXL + VAE
    assert described["memory"]["all resident"] == pytest.approx(resident, rel=1e-3)
    assert described["memory"]["text encoder dropped"] == pytest.approx(resident - T5_XXL, rel=1e-3)
    assert described["bytes"] == pytest.approx(sizes["das"] + T5_XXL + VAE, rel=1e-3), "both are made of DaS's files"
    config = transformer_config(name)
    assert (described["width"], described["height"]) == (8 * config["sample_width"], 8 * config["sample_height"])
    assert described["num_frames"] == config["sample_frames"]
    assert ("points" in described["conditions"]) == config["point_cloud"]


def test_the_models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HVG3D_MODELS", str(tmp_path))
    assert models_home() == tmp_path
    shutil.copytree(SHIPPED, tmp_path / "mine")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden/hvg3d.json").write_text("{}")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/hvg3d.json").write_text("{")
    assert [m["id"] for m in list_models()] == ["nano", "das", "hvg3d-5b", "mine"]
    mine = find_model("mine")
    assert mine.path == str(tmp_path / "mine")
    numbers = sum(np.prod(t.shape) for p in (tmp_path / "mine").rglob("*.safetensors") for t in load_file(p).values())
    assert mine.memory == {"all resident": 4 * numbers}, "of a model that does not say, it is counted"
    assert find_model(str(tmp_path / "mine")).id == "mine"
    with pytest.raises(ModelError, match=r"broken.hvg3d\.json"):
        find_model("broken")
    for name in ("../mine", ".hidden", "", "nothing"):
        with pytest.raises(ModelError, match=r"not known: use one of nano, das, hvg3d-5b|no model there"):
            find_model(name)


def test_what_the_api_gets_is_json_and_has_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HVG3D_MODELS", str(tmp_path))
    for model in json.loads(json.dumps(list_models())):
        assert {"id", "title", "licence", "licence_url", "bytes", "memory", "installed", "summary"} <= set(model)
