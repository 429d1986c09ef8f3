# SPDX-License-Identifier: Apache-2.0
"""A pipeline folder laid out as Diffusion as Shader is released, made tiny: real networks with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler
from safetensors.torch import save_file
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from hvg3d_core.models.configs import transformer_config
from tests.core.models.das_reference import DiffusionAsShader, draw

LAYERS, COPIES, TEXT = 4, 2, 16
TINY: dict[str, Any] = {
    "num_layers": LAYERS,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 8,
    "out_channels": 4,
    "text_embed_dim": 16,
    "time_embed_dim": 8,
    "sample_height": 4,
    "sample_width": 4,
    "sample_frames": 9,
    "max_text_seq_length": TEXT,
}
OURS = ("point_", "num_point", "num_control", "resampler", "chain_", "share_", "tracking_", "num_roles", "_")


def released_config(**changed: Any) -> dict[str, Any]:
    base = {k: v for k, v in transformer_config("das").items() if not k.startswith(OURS)}
    name = {"_class_name": "CogVideoXTransformer3DModelTracking", "_diffusers_version": "0.32.2"}
    return name | base | TINY | {"num_tracking_blocks": COPIES} | changed


def oracle(copies: int = COPIES, seed: int = 0) -> DiffusionAsShader:
    model = DiffusionAsShader(
        layers=LAYERS, copies=copies, heads=2, head_dim=16, channels=4, text_dim=16, time_dim=8, num_tokens=TEXT + 3 * 4
    )
    return draw(model, seed)


def write_network(folder: Path, state: dict[str, Tensor], config: dict[str, Any], shards: int = 1) -> None:
    """As diffusers writes a network: one file, or ``shards`` of them and an index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    state = {name: tensor.clone() for name, tensor in state.items()}
    stem = "diffusion_pytorch_model"
    if shards == 1:
        save_file(state, folder / f"{stem}.safetensors", metadata={"format": "pt"})
        return
    names = sorted(state)
    weight_map = {}
    for i in range(shards):
        file = f"{stem}-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: state[name] for name in names[i::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def write_tokenizer(folder: Path) -> None:
    """As T5's is released: a sentencepiece model, and nothing that can be read without that library."""
    folder.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a hand lifts a cup from the table", "the quick brown fox jumps over lazy dogs"] * 20),
        model_prefix=str(folder / "spiece"),
        vocab_size=35,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100, "model_max_length": TEXT}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def write_pipeline(folder: Path, model: DiffusionAsShader, shards: int = 3, **config: Any) -> Path:
    """The whole folder: the network in ``transformer``, and the parts that come with it."""
    write_network(folder / "transformer", model.state_dict(), released_config(**config), shards)
    torch.manual_seed(0)
    AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    ).save_pretrained(folder / "vae")
    T5EncoderModel(
        T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0)
    ).save_pretrained(folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "CogVideoXImageToVideoPipelineTracking",
        "_diffusers_version": "0.32.2",
        "scheduler": ["diffusers", "CogVideoXDPMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["models.cogvideox_tracking", "CogVideoXTransformer3DModelTracking"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "LICENSE").write_text("The text of a licence.\n", encoding="utf-8")
    return folder
