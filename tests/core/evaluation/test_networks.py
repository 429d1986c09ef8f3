# SPDX-License-Identifier: Apache-2.0
"""Metrics that need weights, with tiny random networks through the code that takes the real ones; their formulas and
the preparation of images equal the packages that define them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hvg3d_core.evaluation import feature_networks, weights
from hvg3d_core.evaluation.catalogue import METRICS
from hvg3d_core.evaluation.distributions import frechet_distance, frechet_of_clips
from hvg3d_core.evaluation.errors import EvaluationError
from hvg3d_core.evaluation.lpips import load_lpips
from hvg3d_core.evaluation.networks import load_networks

from .references import lpips_package, piece, torchvision_alexnet
from .test_frame_metrics import random_clips


class TinyInception(nn.Module):
    """Called like NVIDIA's TorchScript Inception: ``layers`` on images of 299 x 299 in [-1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 2048, 13, stride=100), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return self.layers(images)


class TinyI3D(nn.Module):
    """Called like StyleGAN-V's TorchScript I3D; it refuses what the real one is not made for."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(3, 16, (3, 16, 16), stride=(2, 16, 16)), nn.AdaptiveAvgPool3d(1))

    def forward(
        self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> torch.Tensor:
        if rescale or resize or not return_features or x.shape[1] != 3 or x.shape[3] != 224 or x.shape[4] != 224:
            raise RuntimeError("called otherwise than FVD is defined")
        if bool((x.abs() > 1).any()):
            raise RuntimeError("values outside of [-1, 1]")
        return self.layers(x).flatten(1)


def write_clip(folder: Path, side: int = 24) -> Path:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=side,
        patch_size=8, projection_dim=12,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every network, tiny or random, under the names that the real ones have."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    trunk = torchvision_alexnet()
    torch.save(trunk.state_dict(), folder / "alexnet-owt-7be5be79.pth")
    channels = [64, 192, 384, 256, 256]
    torch.save({f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(channels)}, folder / "alex.pth")
    torch.jit.script(TinyInception()).save(str(folder / "inception-2015-12-05.pt"))
    torch.jit.script(TinyI3D()).save(str(folder / "i3d_torchscript.pt"))
    write_clip(folder / "clip-vit-large-patch14")
    write_clip(folder / "clip-vit-base-patch32")
    return folder


def test_lpips_is_the_package_s(weights_folder):
    """The real lpips package, with the same AlexNet and linear weights."""
    package = lpips_package()
    theirs = package.LPIPS(net="alex", pnet_rand=True, model_path=str(weights_folder / "alex.pth"), verbose=False)
    trunk = torch.load(weights_folder / "alexnet-owt-7be5be79.pth", weights_only=True)
    for piece_ in range(1, 6):
        for name, layer in getattr(theirs.net, f"slice{piece_}").named_children():
            if isinstance(layer, nn.Conv2d):
                layer.load_state_dict({k: trunk[f"features.{name}.{k}"] for k in ("weight", "bias")})
    mine = load_lpips(weights_folder / "alexnet-owt-7be5be79.pth")
    generated, truth = random_clips(0, frames=10, height=64, width=80)
    pair = [torch.from_numpy(v).movedim(-1, 1).float() / 127.5 - 1 for v in (generated, truth)]
    with torch.no_grad():
        expected = theirs(*pair).mean()
    assert float(expected) > 0.01
    assert mine.compare(generated, truth) == pytest.approx(float(expected), rel=1e-5)
    assert mine.compare(truth, truth) == 0
    assert np.isnan(mine.compare(generated[:, :30], truth[:, :30]))


def test_the_package_s_own_linear_weights_are_found_and_fit(tmp_path, weights_folder):
    """Without alex.pth beside AlexNet, the one inside an installed lpips is taken, though that is not imported."""
    lpips_package()
    path = tmp_path / "alexnet-owt-7be5be79.pth"
    path.write_bytes((weights_folder / "alexnet-owt-7be5be79.pth").read_bytes())
    found = weights.find_linear_weights(path)
    assert found is not None
    assert "lpips" in found.parts
    assert load_lpips(path).compare(*random_clips(0, height=64, width=64)) > 0


def test_inception_is_called_as_clean_fid_does(weights_folder):
    """clean-fid's own resizing and wrapper, on the same file."""
    resize = piece("cleanfid", "resize").make_resizer("PIL", False, "bicubic", (299, 299))
    wrapper = piece("cleanfid", "inception_torchscript").InceptionV3W(str(weights_folder), download=False)
    video, _ = random_clips(1, frames=3)
    images = torch.from_numpy(np.stack([resize(frame) for frame in video])).movedim(-1, 1)
    mine = feature_networks.Inception(weights_folder / "inception-2015-12-05.pt").features(video)
    assert mine.shape == (3, 2048)
    with torch.no_grad():
        np.testing.assert_allclose(mine, wrapper(images).numpy(), rtol=1e-5, atol=1e-6)


def test_clip_sees_what_its_own_processor_makes(weights_folder):
    """transformers' image processor, with CLIP's usual settings, on frames both wide and tall."""
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    folder = weights_folder / "clip-vit-large-patch14"
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    model = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    network = feature_networks.ClipImages(folder)
    for height, width in ((38, 51), (60, 40)):
        generated, truth = random_clips(2, height=height, width=width)
        with torch.no_grad():
            theirs = [model(**processor(list(v), return_tensors="pt")).image_embeds for v in (generated, truth)]
        np.testing.assert_allclose(network.features(generated), theirs[0].numpy(), atol=2e-3)
        expected = float(nn.functional.cosine_similarity(*theirs).mean())
        assert network.compare(generated, truth) == pytest.approx(expected, abs=2e-3)
        assert network.compare(truth, truth) == pytest.approx(1, abs=1e-5)


def test_i3d_is_given_what_fvd_is_defined_on(weights_folder):
    network = feature_networks.I3D(weights_folder / "i3d_torchscript.pt")
    for height, width in ((38, 51), (60, 40)):
        video, _ = random_clips(0, frames=10, height=height, width=width)
        assert network.features(video).shape == (1, 16)
    with pytest.raises(EvaluationError, match="10 frames or more; these videos have 9"):
        network.features(video[:9])


@pytest.mark.parametrize(("count", "size"), [(60, 8), (20, 40)])
def test_frechet_distance_is_that_of_the_packages(count, size):
    """torchmetrics' and piq's, for more vectors than dimensions and for fewer."""
    from torchmetrics.image.fid import _compute_fid

    rng = np.random.default_rng(0)
    a = rng.normal(0, 1, (count, size)) @ rng.normal(0, 1, (size, size))
    b = rng.normal(0.3, 1.2, (count + 7, size))
    tensors = [torch.from_numpy(x) for x in (a, b)]
    theirs = _compute_fid(tensors[0].mean(0), tensors[0].T.cov(), tensors[1].mean(0), tensors[1].T.cov())
    mine = frechet_distance(a, b)
    assert mine == pytest.approx(float(theirs), rel=1e-4)
    if count > size:
        from scipy.linalg import sqrtm

        root = sqrtm(np.cov(a.T) @ np.cov(b.T)).real
        plain = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
        assert mine == pytest.approx(plain, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_interval_of_a_pooled_metric_lies_about_it():
    rng = np.random.default_rng(1)
    truth = [rng.normal(c, 1, (4, 6)) for c in rng.normal(0, 1, 12)]
    made = [t + rng.normal(0.5, 0.3, t.shape) for t in truth]
    found = frechet_of_clips(made, truth)
    assert found is not None
    assert found.low < found.mean < found.high
    assert found.count == 48
    assert found.mean == pytest.approx(frechet_distance(np.concatenate(made), np.concatenate(truth)))
    wide = [np.concatenate([v, rng.normal(0, 1, (4, 200))], axis=1) for v in made]
    true = [np.concatenate([v, rng.normal(0, 1, (4, 200))], axis=1) for v in truth]
    reduced = frechet_of_clips(wide, true)  # fewer vectors than dimensions: computed in a smaller basis
    assert reduced is not None
    assert reduced.mean == pytest.approx(frechet_distance(np.concatenate(wide), np.concatenate(true)))
    assert frechet_of_clips([made[0][:1]], [truth[0][:1]]) is None


def test_without_weights_there_is_a_reason_and_no_network(tmp_path, monkeypatch):
    for name in ("TORCH_HOME", "HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    loaded, reasons = load_networks(METRICS.values(), weights.WeightsPlaces())
    assert not loaded
    assert set(reasons) == {"lpips", "clip", "fid", "c_fid", "fvd"}
    assert "--weights i3d=PATH" in reasons["fvd"]


def test_weights_are_found_by_folder_by_name_and_in_the_cache(tmp_path, weights_folder, monkeypatch):
    loaded, reasons = load_networks(METRICS.values(), weights.parse_weights([str(weights_folder)]))
    assert set(loaded) == {"lpips", "clip", "clip_fid", "inception", "i3d"}
    assert not reasons
    places = weights.parse_weights([f"clip={weights_folder / 'clip-vit-base-patch32'}"])
    assert weights.find_weights("clip", places) == weights_folder / "clip-vit-base-patch32"
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "i3d_torchscript.pt").write_bytes((weights_folder / "i3d_torchscript.pt").read_bytes())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert weights.find_weights("i3d", weights.WeightsPlaces()) == cache / "i3d_torchscript.pt"


def test_wrong_weights_are_refused_by_name(tmp_path, weights_folder):
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"nothing")
    for name in ("lpips", "inception", "i3d"):
        with pytest.raises(EvaluationError, match=r"bad\.pth: not a"):
            load_networks(METRICS.values(), weights.parse_weights([f"{name}={bad}"]))
    (tmp_path / "folder").mkdir()
    with pytest.raises(EvaluationError, match="not a CLIP model's folder"):
        load_networks(METRICS.values(), weights.parse_weights([f"clip={tmp_path / 'folder'}"]))
    with pytest.raises(EvaluationError, match="there is no"):
        weights.parse_weights([f"lpips={tmp_path / 'absent.pth'}"])
    other = {f"features.{i}.weight": torch.zeros(1) for i in (0, 3, 6, 8, 10)}
    torch.save(other, tmp_path / "other.pth")
    (tmp_path / "alex.pth").write_bytes((weights_folder / "alex.pth").read_bytes())
    with pytest.raises(EvaluationError, match="not the weights of AlexNet"):
        load_networks(METRICS.values(), weights.parse_weights([f"lpips={tmp_path / 'other.pth'}"]))


def test_nothing_here_imports_torchvision():
    """Which cannot be imported beside every build of torch."""
    assert importlib.util.find_spec("hvg3d_core.evaluation.lpips") is not None
    for path in Path(feature_networks.__file__).parent.glob("*.py"):
        assert "import torchvision" not in path.read_text()
        assert "from torchvision" not in path.read_text()
