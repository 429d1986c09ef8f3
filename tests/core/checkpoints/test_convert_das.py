# SPDX-License-Identifier: Apache-2.0
"""DaS's released layout made into ours: the same output, every tensor accounted for, little memory, plain errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDPMScheduler
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from PIL import Image
from safetensors.torch import load_file, save_file

from hvg3d_core.checkpoints.convert_das import Conversion, convert_das
from hvg3d_core.checkpoints.registry import ModelError, read_entry
from hvg3d_core.generate import GenerationRequest, generate, load_model
from hvg3d_core.models import HVG3DTransformer3DModel
from hvg3d_core.pipelines import HVG3DImageToVideoPipeline
from tests.core.models.das_reference import DiffusionAsShader
from tests.core.models.tiny import point_inputs
from tests.core.synthetic import make_clip

from .released import COPIES, LAYERS, TEXT, oracle, released_config, write_network, write_pipeline


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pipeline(tmp_path_factory.mktemp("das") / "released", oracle())


def inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(4)
    return {
        "hidden_states": torch.randn(2, 3, 8, 4, 4, generator=generator),
        "encoder_hidden_states": torch.randn(2, TEXT, 16, generator=generator),
        "timestep": torch.tensor([700, 20]),
        "image_rotary_emb": get_3d_rotary_pos_embed(16, ((0, 0), (2, 2)), (2, 2), 3),
    }


TRACKING = torch.randn(2, 3, 8, 4, 4, generator=torch.Generator().manual_seed(5))


def output(folder: Path, **given: Any) -> torch.Tensor:
    model = HVG3DTransformer3DModel.from_pretrained(folder / "transformer")
    with torch.no_grad():
        return model(**inputs(), tracking_latents=TRACKING, **given, return_dict=False)[0]


def expected(model: DiffusionAsShader) -> torch.Tensor:
    with torch.no_grad():
        return model(*inputs().values(), TRACKING)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 50_000])
def test_the_converted_network_computes_what_das_does(tmp_path: Path, shards: int, max_shard_bytes: int) -> None:
    """The whole forward pass, with chaining and shared text, from and to one file or several: to 1e-6."""
    model = oracle(seed=shards)
    folder = write_pipeline(tmp_path / "released", model, shards)
    conversion = convert_das(folder, tmp_path / "ours", max_shard_bytes=max_shard_bytes)
    files = sorted(p.name for p in (tmp_path / "ours/transformer").iterdir())
    assert (len(files) > 2) == (max_shard_bytes == 50_000), files
    found, wanted = output(tmp_path / "ours"), expected(model)
    assert (found - wanted).abs().max() < 1e-6
    assert wanted.std() > 0.1
    with torch.no_grad():
        assert (model(*inputs().values()) - wanted).abs().max() > 0.01, "the control branch does something"
    assert conversion.config["chain_through_zero"] and conversion.config["share_text_stream"]
    assert conversion.config["num_control_blocks"] == COPIES


def test_a_seeded_hvg3d_branch_computes_das_whatever_the_point_cloud(released: Path, tmp_path: Path) -> None:
    convert_das(released, tmp_path / "seed", seed_hvg3d=True)
    folder = tmp_path / "seed"
    wanted = expected(oracle())
    assert (output(folder) - wanted).abs().max() < 1e-6
    points = point_inputs(frames=9)
    assert (output(folder, **points) - wanted).abs().max() < 1e-6
    model = HVG3DTransformer3DModel.from_pretrained(folder / "transformer")
    assert model.config.num_control_blocks == LAYERS and model.config.point_cloud
    dim = model.fuse.out_features
    assert not model.fuse.weight[:, dim:].any() and model.fuse.weight[:, :dim].any()
    for i in range(COPIES, LAYERS):
        base = model.transformer_blocks[i].state_dict()
        assert all(torch.equal(t, base[k]) for k, t in model.control_blocks[i].state_dict().items())
        assert not model.zero[i].weight.any() and not model.zero[i].bias.any()
    for part in (model.point_encoder, model.point_resampler, model.point_patch_embed):
        assert all(p.isfinite().all() for p in part.parameters())
        assert any(p.any() for p in part.parameters())


def test_a_seeded_branch_learns_from_the_points(released: Path, tmp_path: Path) -> None:
    """The point cloud's zero columns get a gradient at once, the encoder behind them from the second step on."""
    convert_das(released, tmp_path / "seed", seed_hvg3d=True)
    model = HVG3DTransformer3DModel.from_pretrained(tmp_path / "seed/transformer")
    model.freeze_base()

    def gradients() -> tuple[bool, bool]:
        model.zero_grad(set_to_none=True)
        out = model(**inputs(), tracking_latents=TRACKING, **point_inputs(frames=9), return_dict=False)[0]
        out.square().mean().backward()
        columns = model.fuse.weight.grad[:, model.fuse.out_features :]
        return bool(columns.any()), any(bool(p.grad.any()) for p in model.point_encoder.parameters())

    assert gradients() == (True, False)
    with torch.no_grad():
        model.fuse.weight.sub_(0.1 * model.fuse.weight.grad)
    assert gradients() == (True, True)


def test_seeding_is_repeatable(released: Path, tmp_path: Path) -> None:
    states = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(states))
        convert_das(released, tmp_path / name, seed_hvg3d=True, seed=seed)
        states.append(load_file(tmp_path / name / "transformer/diffusion_pytorch_model.safetensors"))
    assert all(torch.equal(t, states[1][k]) for k, t in states[0].items())
    assert not torch.equal(states[0]["point_patch_embed.weight"], states[2]["point_patch_embed.weight"])


def accounted(conversion: Conversion, model: DiffusionAsShader, own_base: bool = True) -> None:
    """Every tensor of DaS is used or skipped, every tensor of ours used or filled, none twice."""
    used = [s.source for s in conversion.steps if not s.filled and (own_base or not s.from_base)]
    skipped = [name for name, _ in conversion.skipped]
    assert sorted({*used, *skipped}) == sorted(model.state_dict())
    assert len(used) == len(set(used)) and not set(used) & set(skipped)
    lines = list(conversion.lines())
    assert len(lines) == len(conversion.steps) + len(skipped)
    for name in model.state_dict():
        assert any(name in line for line in lines)


def test_every_key_is_reported(released: Path, tmp_path: Path) -> None:
    reported: list[str] = []
    plain = convert_das(released, tmp_path / "das", report=reported.append)
    accounted(plain, oracle())
    assert reported == list(plain.lines())
    assert not plain.skipped and not any(s.filled for s in plain.steps)
    assert "used     combine_linears.1.bias -> zero.1.bias  (32,)" in reported
    written = (tmp_path / "das/conversion.txt").read_text()
    assert written.splitlines() == [*reported, *plain.summary().splitlines()]

    seeded = convert_das(released, tmp_path / "seed", seed_hvg3d=True)
    accounted(seeded, oracle())
    filled = {s.target for s in seeded.steps if s.filled}
    per_block = len(oracle().transformer_blocks[0].state_dict())
    assert len([f for f in filled if f.startswith("control_blocks")]) == per_block * (LAYERS - COPIES)
    assert {f for f in filled if f.startswith("zero")} == {f"zero.{i}.{k}" for i in (2, 3) for k in ("weight", "bias")}
    assert seeded.parameters["used"] == plain.parameters["used"]
    model = HVG3DTransformer3DModel.from_pretrained(tmp_path / "seed/transformer")
    assert seeded.total_bytes == 4 * sum(t.numel() for t in model.state_dict().values())


def test_the_whole_pipeline_loads_and_generates(released: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours"
    convert_das(released, out)
    entry = read_entry(out, "ours")
    assert (entry.width, entry.height, entry.num_frames) == (32, 32, 9)
    assert entry.licence == "CogVideoX License" and entry.conditions == ["tracking"] and entry.use_dynamic_cfg
    assert (out / "LICENSE").read_text() == "The text of a licence.\n"
    assert (out / "text_encoder/model.safetensors").samefile(released / "text_encoder/model.safetensors")
    pipeline = HVG3DImageToVideoPipeline.from_pretrained(out)
    assert type(pipeline.scheduler) is CogVideoXDPMScheduler
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    assert pipeline.scheduler.config.rescale_betas_zero_snr
    pipeline.set_progress_bar_config(disable=True)
    video = np.random.default_rng(1).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    results = [
        pipeline(
            Image.new("RGB", (32, 32), "gray"),
            "a hand lifts a cup",
            num_inference_steps=2,
            tracking_video=tracking,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).frames
        for tracking in (video, None)
    ]
    assert np.isfinite(results[0]).all() and not np.allclose(*results)


def test_generation_gives_it_the_tracks_alone(released: Path, tmp_path: Path) -> None:
    """From a clip, as command line and server generate: its points are left out, its tracks change the video."""
    convert_das(released, tmp_path / "ours")
    model = load_model(str(tmp_path / "ours"), device="cpu")
    assert next(model.pipeline.transformer.parameters()).dtype == torch.bfloat16
    clip = make_clip()[0]
    frames = [
        generate(model, clip, GenerationRequest(num_inference_steps=2, guidance_scale=1.0, **changed)).frames
        for changed in ({}, {"use_points": False}, {"use_tracking": False})
    ]
    assert frames[0].shape == (9, 32, 32, 3)
    assert np.array_equal(frames[0], frames[1]) and not np.array_equal(frames[0], frames[2])


@pytest.mark.parametrize("tracking_range", ["minus_one_one", "zero_one"])
def test_the_range_of_the_tracking_video_is_the_checkpoints(
    released: Path, tmp_path: Path, tracking_range: str
) -> None:
    convert_das(released, tmp_path / "ours", tracking_range=tracking_range)
    model = HVG3DTransformer3DModel.from_pretrained(tmp_path / "ours/transformer")
    assert model.config.tracking_range == tracking_range


def test_the_base_may_come_from_stock_cogvideox(tmp_path: Path) -> None:
    """Its weights are used, those of DaS's file skipped; which of them differ is said."""
    model, other = oracle(), oracle(copies=0, seed=9)
    other.load_state_dict({k: v for k, v in model.state_dict().items() if k in other.state_dict()})
    with torch.no_grad():
        other.norm_final.weight.add_(1)
    base = write_pipeline(tmp_path / "stock", other)
    write_network(tmp_path / "lone", model.state_dict(), released_config())
    conversion = convert_das(tmp_path / "lone", tmp_path / "ours", base=base)
    accounted(conversion, model, own_base=False)
    assert conversion.base_differences == ["norm_final.weight"]
    assert "1 tensors of the base differ" in conversion.summary()
    assert ("norm_final.weight", "the base given is used in its place") in conversion.skipped
    with torch.no_grad():
        model.norm_final.weight.add_(1)
    assert (output(tmp_path / "ours") - expected(model)).abs().max() < 1e-6
    branch_only = {k: v for k, v in oracle().state_dict().items() if k not in other.state_dict()}
    write_network(tmp_path / "branch", branch_only, released_config())
    convert_das(tmp_path / "branch", tmp_path / "again", base=base)
    assert torch.equal(output(tmp_path / "again"), output(tmp_path / "ours"))


def test_names_that_wrappers_leave_behind_are_understood(tmp_path: Path) -> None:
    """torch.compile's prefix; the double-precision position table of a freshly built model; fused projections."""
    model = oracle()
    state = {f"_orig_mod.{k}": v for k, v in model.state_dict().items()}
    state["_orig_mod.patch_embed.pos_embedding"] = state["_orig_mod.patch_embed.pos_embedding"].double()
    state["_orig_mod.transformer_blocks.0.attn1.to_qkv.weight"] = torch.zeros(96, 32)
    state["unheard.of"] = torch.zeros(1)
    folder = write_pipeline(tmp_path / "released", model, 1)
    save_file(state, folder / "transformer/diffusion_pytorch_model.safetensors")
    conversion = convert_das(folder, tmp_path / "ours")
    assert [name for name, _ in conversion.skipped] == ["transformer_blocks.0.attn1.to_qkv.weight", "unheard.of"]
    assert "fused" in conversion.skipped[0][1] and "not known" in conversion.skipped[1][1]
    assert {t.dtype for t in load_file(tmp_path / "ours/transformer/diffusion_pytorch_model.safetensors").values()} == {
        torch.float32
    }
    assert (output(tmp_path / "ours") - expected(model)).abs().max() < 1e-6


def test_dtype(released: Path, tmp_path: Path) -> None:
    convert_das(released, tmp_path / "half", dtype="bfloat16", seed_hvg3d=True)
    state = load_file(tmp_path / "half/transformer/diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in state.values()} == {torch.bfloat16}


def broken(released: Path, tmp_path: Path, what: str) -> Path:
    """A copy of the released folder with one thing wrong."""
    folder = Path(shutil.copytree(released, tmp_path / "broken"))
    transformer = folder / "transformer"
    first = sorted(transformer.glob("*.safetensors"))[0]
    if what == "cut":
        first.write_bytes(first.read_bytes()[:-100])
    elif what == "shard":
        first.unlink()
    elif what == "key":
        shutil.rmtree(transformer)
        write_network(
            transformer, {k: v for k, v in oracle().state_dict().items() if k != "proj_out.bias"}, released_config()
        )
    elif what == "shape":
        (transformer / "config.json").write_text(json.dumps(released_config(text_embed_dim=24)), encoding="utf-8")
    elif what == "count":
        (transformer / "config.json").write_text(json.dumps(released_config(num_tracking_blocks=3)), encoding="utf-8")
    elif what == "copy":
        shutil.rmtree(transformer)
        fewer = {k: v for k, v in oracle().state_dict().items() if not k.startswith("combine_linears.0.")}
        write_network(transformer, fewer, released_config())
    elif what == "other":
        shutil.rmtree(transformer)
        write_network(transformer, oracle(copies=0).state_dict(), released_config())
    elif what == "pickle":
        shutil.rmtree(transformer)
        transformer.mkdir()
        torch.save(oracle().state_dict(), transformer / "diffusion_pytorch_model.bin")
    elif what == "vae":
        shutil.rmtree(folder / "vae")
    return folder


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("cut", "00001-of-00003.safetensors: cut off or not safetensors"),
        ("shard", "00001-of-00003.safetensors: missing, though the index names it"),
        ("key", "proj_out.bias is missing; name a folder of CogVideoX-5B-I2V"),
        ("shape", r"patch_embed.text_proj.weight has shape \(32, 16\), but config.json asks for \(32, 24\)"),
        ("count", "num_tracking_blocks is 3, but there are 2 copies"),
        ("copy", r"combine_linears.\* is there for 1, not 0 to 1"),
        ("other", "not the weights of Diffusion as Shader: no tensor's name begins with transformer_blocks_copy"),
        ("pickle", "no safetensors file; diffusion_pytorch_model.bin is a pickle"),
        ("vae", "no vae there; name CogVideoX-5B-I2V's pipeline folder"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_left(released: Path, tmp_path: Path, what: str, message: str) -> None:
    folder = broken(released, tmp_path, what)
    with pytest.raises(ModelError, match=message):
        convert_das(folder, tmp_path / "ours")
    assert [p.name for p in tmp_path.iterdir()] == ["broken"]


def test_it_does_not_write_over_anything(released: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ModelError, match="there is something already"):
        convert_das(released, tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        convert_das(tmp_path / "nowhere", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """A network of 1.2 GB through shards of 64 MB: the process's own memory stays far below the network's size."""
    wide = {"num_attention_heads": 24, "attention_head_dim": 64, "num_layers": 8, "text_embed_dim": 64}
    model = DiffusionAsShader(
        layers=8, copies=2, heads=24, head_dim=64, channels=4, text_dim=64, time_dim=8, num_tokens=TEXT + 3 * 4
    )
    folder = write_pipeline(tmp_path / "released", model, 8, **wide)
    size = sum(p.stat().st_size for p in (folder / "transformer").iterdir())
    del model
    code = (
        "from pathlib import Path\n"
        "from hvg3d_core.checkpoints.convert_das import convert_das\n"
        "def own():\n"
        "    return int(next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1]) * 1024\n"
        "import threading, time\npeak = [0]; before = own(); done = threading.Event()\n"
        "def watch():\n"
        "    while not done.is_set(): peak[0] = max(peak[0], own()); time.sleep(0.002)\n"
        "t = threading.Thread(target=watch); t.start()\n"
        f"convert_das(Path({str(folder)!r}), Path({str(tmp_path / 'ours')!r}), max_shard_bytes=64_000_000)\n"
        "done.set(); t.join(); print(peak[0] - before)\n"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("asks Linux for the memory in use")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert size > 1_000_000_000
    assert int(done.stdout) < 300_000_000, f"{int(done.stdout) / 1e6:.0f} MB for a network of {size / 1e6:.0f} MB"
