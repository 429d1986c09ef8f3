# SPDX-License-Identifier: Apache-2.0
"""``hvg3d models`` as a person types it: what it prints, what it asks, how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hvg3d_core.checkpoints.registry import ModelError, catalogue
from hvg3d_core.cli.main import app
from tests.core.checkpoints.hub import Hub
from tests.core.checkpoints.released import COPIES, oracle, write_pipeline


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pipeline(tmp_path_factory.mktemp("das") / "released", oracle())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HVG3D_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub cache"))
    return tmp_path / "models"


@pytest.fixture
def hub(released: Path) -> Iterator[Hub]:
    hub = Hub(released, catalogue()["das"].repository)
    yield hub
    hub.close()


def hvg3d(*arguments: Any) -> str:
    """What it prints. Raises what it raises: the entry point makes one line of a ModelError."""
    result = CliRunner().invoke(app, ["models", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code:
        raise SystemExit(result.output)
    return result.output


def test_list_says_licence_size_memory_and_how_to_get_it(home: Path) -> None:
    for listing in (hvg3d("list"), hvg3d()):
        assert "nano: HVG-3D nano (Apache-2.0; " in listing and "installed" in listing and "not photoreal" in listing
        assert "das: Diffusion as Shader (CogVideoX 5B) (CogVideoX License; 26.3 GB to download)" in listing
        assert "weights in memory: 26.3 GB with all resident, 16.8 GB with text encoder dropped" in listing
        assert "get it: hvg3d models pull das" in listing
        assert str(home) in listing


def test_the_life_of_a_model(home: Path, hub: Hub) -> None:
    with pytest.raises(ModelError, match="--accept-licence"):
        hvg3d("pull", "das", "--mirror", hub.url)
    assert not hub.fetched()
    output = hvg3d("pull", "das", "--mirror", hub.url, "--accept-licence")
    for part in ("CogVideoX License", "https://", "academic use is free", "[1/", f"MB in {home / 'das'}"):
        assert part in output
    assert "installed" in hvg3d("list").partition("das: ")[2].splitlines()[0]
    assert "all as they should be" in hvg3d("verify", "das")
    assert "is here already" in hvg3d("pull", "das")
    weights = home / "das/vae/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(SystemExit, match=r"(?s)vae/.*bytes, should be .*1 of \d+ files are wrong; .*pull das --force"):
        hvg3d("verify", "das")
    assert "licence" not in hvg3d("pull", "das", "--force", "--mirror", hub.url), "agreed to before"
    assert "all as they should be" in hvg3d("verify", "das")
    with pytest.raises(ModelError, match="das: kept; --yes"):
        hvg3d("remove", "das")
    assert "das removed" in hvg3d("remove", "das", "--yes")
    assert not (home / "das").exists()
    assert "all as they should be" in hvg3d("verify", "nano")


def test_convert_das_prints_every_tensor(home: Path, released: Path, tmp_path: Path) -> None:
    lines = hvg3d("convert-das", released, "--out", tmp_path / "ours").splitlines()
    names = list(oracle().state_dict())
    assert len([line for line in lines if line.startswith("used     ")]) == len(names)
    for name in names:
        assert any(f" {name} " in line for line in lines)
    assert lines[-1] == str(tmp_path / "ours")
    branch = sum(
        name.split(".")[0] in ("transformer_blocks_copy", "combine_linears", "initial_combine_linear") for name in names
    )
    assert f"used {len(names)} tensors" in lines[-2] and f"{branch} of DaS's branch" in lines[-2]
    assert "filled 0" in lines[-2] and "skipped 0" in lines[-2]

    short = hvg3d("convert-das", released, "--seed-hvg3d", "--summary", "--max-shard-gb", 0.001).splitlines()
    assert len(short) == 2 and short[1] == str(home / "hvg3d-5b"), "the models' own folder unless named"
    assert f"{branch} of DaS's branch" in short[0] and COPIES == 2
    assert "all as they should be" in hvg3d("verify", "hvg3d-5b")
    with pytest.raises(ModelError, match="there is something already"):
        hvg3d("convert-das", released, "--seed-hvg3d")
    with pytest.raises(ModelError, match="tracking_range 'bytes' is not one of"):
        hvg3d("convert-das", released, "--out", tmp_path / "other", "--tracking-range", "bytes")
