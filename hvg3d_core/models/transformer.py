# SPDX-License-Identifier: Apache-2.0
"""CogVideoX with the HVG-3D control branch: a configurable superset of Diffusion as Shader (DaS).

The base network is diffusers', frozen in training. Beside it runs a copy of its first n blocks that reads the
tracking video's latents and the resampled point cloud; a zero-initialised 1x1 convolution after each copy adds to the
matching base block's output, so that the untrained branch changes nothing. Names: B batch, T source frames, F latent
frames, S = F h/p w/p video tokens (p the patch size), D width, C point-grid channels.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, ClassVar

import torch
from accelerate import init_empty_weights
from diffusers import (
    CogVideoXTransformer3DModel,
    ModelMixin,  # noqa: F401 - a pipeline's from_pretrained looks for the base class by this name, in this module
)
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock
from diffusers.utils import apply_lora_scale
from torch import Tensor, nn

from .attention import CogVideoXDispatchAttnProcessor
from .injection import ControlState, InjectionMixin
from .point_encoder import PointCloudEncoder
from .resamplers import (
    InterpolateResampler,
    RayAttentionResampler,
    reference_features,
    warp_channels,
    warp_reference,
)

RESAMPLERS = ("ray_attention", "interpolate")
TRACKING_RANGES = ("minus_one_one", "zero_one")
CONTROL_MODULES = ("control_blocks", "zero", "fuse", "point_encoder", "point_resampler", "point_patch_embed")


class HVG3DTransformer3DModel(InjectionMixin, CogVideoXTransformer3DModel):
    """CogVideoX-I2V's transformer and a control branch on 3D tracking and point clouds.

    Beyond the arguments of ``CogVideoXTransformer3DModel``:

    Args:
        num_control_blocks: n, how many of the first blocks are copied; all of them by default (HVG-3D). DaS: 18.
        chain_through_zero: each copy reads what its predecessor's zero convolution gave, not what the predecessor
            gave. True is DaS.
        share_text_stream: copies read the base's text tokens after the matching block, and drop their own. True is DaS.
        point_cloud: False leaves out everything that reads points, as in DaS: ``fuse`` is then a D x D layer on h + t.
        point_grid_channels: C, channels of the point cloud on the latent grid.
        point_dim, point_heads, point_head_dim, num_point_latents, point_self_layers, point_query_mode, num_roles:
            of the :class:`PointCloudEncoder`.
        point_reference_features: points also carry the reference image's latents from where frame 0 sees them, and
            the grid gets the reference so warped as further channels (see ``warp_reference``): the cloud brings looks
            along, not geometry alone. Ours, not the article's; needs tracked points.
        point_reference_per_frame: the warped reference has channels for every frame of a latent frame's group, instead
            of the group's average.
        resampler: ``ray_attention`` or ``interpolate``; see ``resamplers.py``.
        resampler_heads, resampler_head_dim: of the ``ray_attention`` resampler.
        tracking_range: value range in which the VAE is given the tracking video. ``minus_one_one`` is what DaS trains
            with and what every other video is given in; ``zero_one`` is what its released inference code does.
    """

    _repeated_blocks: ClassVar[list[str]] = ["CogVideoXBlock"]
    _no_split_modules: ClassVar[list[str]] = [
        "CogVideoXBlock",
        "CogVideoXPatchEmbed",
        "PointCloudEncoder",
        "RayAttentionResampler",
        "InterpolateResampler",
    ]
    # Zero convolutions start at values that 8-bit floats would flush to zero; the point branch is tiny.
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = ["patch_embed", "norm", "^zero", "^fuse", "^point_"]

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 30,
        attention_head_dim: int = 64,
        in_channels: int = 16,
        out_channels: int | None = 16,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        time_embed_dim: int = 512,
        ofs_embed_dim: int | None = None,
        text_embed_dim: int = 4096,
        num_layers: int = 30,
        dropout: float = 0.0,
        attention_bias: bool = True,
        sample_width: int = 90,
        sample_height: int = 60,
        sample_frames: int = 49,
        patch_size: int = 2,
        patch_size_t: int | None = None,
        temporal_compression_ratio: int = 4,
        max_text_seq_length: int = 226,
        activation_fn: str = "gelu-approximate",
        timestep_activation_fn: str = "silu",
        norm_elementwise_affine: bool = True,
        norm_eps: float = 1e-5,
        spatial_interpolation_scale: float = 1.875,
        temporal_interpolation_scale: float = 1.0,
        use_rotary_positional_embeddings: bool = False,
        use_learned_positional_embeddings: bool = False,
        patch_bias: bool = True,
        num_control_blocks: int | None = None,
        chain_through_zero: bool = False,
        share_text_stream: bool = False,
        point_cloud: bool = True,
        point_grid_channels: int = 16,
        point_dim: int = 768,
        point_heads: int = 12,
        point_head_dim: int = 64,
        num_point_latents: int = 512,
        point_self_layers: int = 0,
        point_query_mode: str = "fps_first_frame",
        num_roles: int = 4,
        point_reference_features: bool = False,
        point_reference_per_frame: bool = False,
        resampler: str = "ray_attention",
        resampler_heads: int = 8,
        resampler_head_dim: int = 32,
        tracking_range: str = "minus_one_one",
    ) -> None:
        # register_to_config has stored every argument by now; the base gets those it knows.
        base_arguments = inspect.signature(CogVideoXTransformer3DModel.__init__).parameters
        super().__init__(**{name: self.config[name] for name in base_arguments if name in self.config})
        if patch_size_t is not None:
            raise ValueError(f"patch_size_t {patch_size_t}: CogVideoX 1.5 is not supported, use a 1.0 model (None)")
        if num_control_blocks is None:
            num_control_blocks = num_layers
            self.register_to_config(num_control_blocks=num_layers)
        if not 1 <= num_control_blocks <= num_layers:
            raise ValueError(f"num_control_blocks {num_control_blocks}: must be 1 to num_layers ({num_layers})")
        if resampler not in RESAMPLERS:
            raise ValueError(f"resampler {resampler!r} is not one of {', '.join(RESAMPLERS)}")
        if tracking_range not in TRACKING_RANGES:
            raise ValueError(f"tracking_range {tracking_range!r} is not one of {', '.join(TRACKING_RANGES)}")

        dim = num_attention_heads * attention_head_dim
        self.control_blocks = nn.ModuleList(
            CogVideoXBlock(
                dim=dim,
                num_attention_heads=num_attention_heads,
                attention_head_dim=attention_head_dim,
                time_embed_dim=time_embed_dim,
                dropout=dropout,
                activation_fn=activation_fn,
                attention_bias=attention_bias,
                norm_elementwise_affine=norm_elementwise_affine,
                norm_eps=norm_eps,
            )
            for _ in range(num_control_blocks)
        )
        # A 1x1 convolution over tokens is a Linear: (D, D, 1) weights of a Conv1d are these with the last axis dropped.
        self.zero = nn.ModuleList(nn.Linear(dim, dim) for _ in range(num_control_blocks))
        self.fuse = nn.Linear(2 * dim if point_cloud else dim, dim)
        self.point_encoder = self.point_resampler = self.point_patch_embed = None
        if point_cloud:
            self.point_encoder = PointCloudEncoder(
                dim=point_dim,
                heads=point_heads,
                head_dim=point_head_dim,
                num_latents=num_point_latents,
                num_self_layers=point_self_layers,
                num_roles=num_roles,
                query_mode=point_query_mode,
                feature_channels=out_channels + 1 if point_reference_features else 0,
            )
            ratio = temporal_compression_ratio
            if resampler == "interpolate":
                self.point_resampler = InterpolateResampler(point_dim, point_grid_channels, ratio)
            else:
                self.point_resampler = RayAttentionResampler(
                    point_dim, point_grid_channels, resampler_heads, resampler_head_dim, ratio=ratio
                )
            grid_channels = point_grid_channels
            if point_reference_features:
                grid_channels += warp_channels(out_channels, ratio, point_reference_per_frame)
            self.point_patch_embed = nn.Conv2d(grid_channels, dim, kernel_size=patch_size, stride=patch_size)
        self._init_control()
        self.set_attn_processor(CogVideoXDispatchAttnProcessor())
        if getattr(self.patch_embed, "pos_embedding", None) is not None:
            self.patch_embed.pos_embedding = self.patch_embed.pos_embedding.float()  # diffusers builds it in float64

    @torch.no_grad()
    def _init_control(self) -> None:
        """Zero convolutions to zero. ``fuse``: zero as in DaS, or passing h + t through with a little of p."""
        for zero in self.zero:
            nn.init.zeros_(zero.weight)
            nn.init.zeros_(zero.bias)
        nn.init.zeros_(self.fuse.bias)
        dim = self.fuse.out_features
        if self.config.chain_through_zero:
            nn.init.zeros_(self.fuse.weight)
        else:
            nn.init.eye_(self.fuse.weight[:, :dim])
            if self.config.point_cloud:
                nn.init.normal_(self.fuse.weight[:, dim:], std=0.5 / math.sqrt(dim))

    @classmethod
    def from_transformer(
        cls, transformer: CogVideoXTransformer3DModel, **control_config: Any
    ) -> HVG3DTransformer3DModel:
        """A model with ``transformer``'s weights (copied), control blocks that start as copies of its blocks, and a
        fresh point branch, on its device and in its dtype. ``control_config`` are this class's own arguments.

        Nothing is ever initialised only to be overwritten: a 5B model and its copy take their own memory, no more.
        """
        accepted = inspect.signature(cls.__init__).parameters
        config = {k: v for k, v in transformer.config.items() if k in accepted}
        with init_empty_weights(include_buffers=False):
            model = cls(**{**config, **control_config})
        weights = dict(transformer.state_dict())
        for i in range(model.config.num_control_blocks):
            block = transformer.transformer_blocks[i].state_dict()
            weights.update({f"control_blocks.{i}.{k}": v for k, v in block.items()})
        copies = {k: (v.float() if v.dtype == torch.float64 else v).detach().clone() for k, v in weights.items()}
        model.load_state_dict(copies, strict=False, assign=True)
        for fresh in model.control_modules()[1:]:
            materialise(fresh, transformer.device).to(transformer.dtype)
        model._init_control()
        missing = [name for name, p in model.named_parameters() if p.is_meta]
        if missing:
            raise ValueError(f"transformer: no weights for {', '.join(missing[:3])}; it must be a CogVideoX 1.0 model")
        return model.to(transformer.device)

    def control_parameters(self) -> list[nn.Parameter]:
        """Parameters of the control branch: what is trained."""
        return [p for module in self.control_modules() for p in module.parameters()]

    def control_modules(self) -> list[nn.Module]:
        """The parts of the control branch that this configuration has, ``control_blocks`` first."""
        return [module for name in CONTROL_MODULES if (module := getattr(self, name)) is not None]

    def freeze_base(self) -> None:
        """Only the control branch asks for gradients from here on."""
        self.requires_grad_(False)
        for p in self.control_parameters():
            p.requires_grad_(True)

    def encode_point_cloud(
        self,
        points: Tensor,
        point_entity: Tensor | None = None,
        point_valid: Tensor | None = None,
        intrinsics: Tensor | None = None,
        world_to_camera: Tensor | None = None,
        size: tuple[int, int] | None = None,
        reference_latents: Tensor | None = None,
    ) -> Tensor:
        """The point cloud on the latent grid, the same for every denoising step.

        points (B, T, N, 3) float32 normalised, point_entity (B, N) role index + 1 with 0 for padding, point_valid
        (B, T, N) bool, intrinsics (B, T, 3, 3) for image coordinates in [0, 1]², world_to_camera (B, T, 4, 4) in the
        units of points; size = latent (h, w), default the config's; reference_latents (B, 16, h, w) of the first frame,
        as the base network gets them, where the config has ``point_reference_features`` -> (B, F, C, h, w).
        """
        self._check_point_cloud("points")
        if points.ndim != 4 or points.shape[-1] != 3:
            raise ValueError(f"points: shape {tuple(points.shape)}, must be (B, T, N, 3)")
        size = size or (self.config.sample_height, self.config.sample_width)
        features = None
        if self.config.point_reference_features:
            if reference_latents is None or intrinsics is None or world_to_camera is None:
                raise ValueError(
                    "reference_latents, intrinsics, world_to_camera: point_reference_features needs them all"
                )
            seen = torch.isfinite(points).all(-1) if point_valid is None else point_valid
            features = reference_features(points, seen, intrinsics, world_to_camera, reference_latents)
        tokens, centres, valid = self.point_encoder(points, point_valid, point_entity, features)
        grid = self.point_resampler(tokens, centres, valid, intrinsics, world_to_camera, size)
        if features is None:
            return grid
        warped = warp_reference(
            points,
            seen,
            features,
            intrinsics,
            world_to_camera,
            reference_latents,
            self.config.temporal_compression_ratio,
            self.config.point_reference_per_frame,
        )
        return torch.cat([grid, warped.to(grid.dtype)], dim=2)

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: int | float | Tensor,
        timestep_cond: Tensor | None = None,
        ofs: int | float | Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        tracking_latents: Tensor | None = None,
        points: Tensor | None = None,
        point_entity: Tensor | None = None,
        point_valid: Tensor | None = None,
        intrinsics: Tensor | None = None,
        world_to_camera: Tensor | None = None,
        point_grid: Tensor | None = None,
        tracking_keep: Tensor | None = None,
        points_keep: Tensor | None = None,
        control_scale: float = 1.0,
        return_dict: bool = True,
    ) -> tuple[Tensor] | Transformer2DModelOutput:
        """As ``CogVideoXTransformer3DModel.forward``, under conditions that may each be missing.

        hidden_states (B, F, in, h, w); tracking_latents the same shape: the tracking video's latents and, in the
        second half of the channels, those of its first frame followed by zeros. The point cloud comes as ``points``
        and what goes with them (see :meth:`encode_point_cloud`) or already as ``point_grid`` (B, F, C, h, w).
        tracking_keep, points_keep (B,) bool drop a condition for single samples. A sample without any condition gets
        the base model's output.
        """
        batch, frames, _, height, width = hidden_states.shape
        temb = self._embed_time(timestep, timestep_cond, ofs, hidden_states.dtype)
        num_text = encoder_hidden_states.shape[1]
        tokens = self.embedding_dropout(self.patch_embed(encoder_hidden_states, hidden_states))
        text, video = tokens[:, :num_text], tokens[:, num_text:]

        if points is not None and point_grid is None:
            reference = hidden_states[:, 0, self.config.out_channels :]  # the image's half of the channels
            conditions = (points, point_entity, point_valid, intrinsics, world_to_camera, (height, width), reference)
            point_grid = self._checkpointed(self.encode_point_cloud, *conditions)
        use_control = control_scale != 0 and (tracking_latents is not None or point_grid is not None)
        injection = None
        if use_control:
            control, active = self._start_control(
                video, encoder_hidden_states, hidden_states, tracking_latents, point_grid, tracking_keep, points_keep
            )
            injection = ControlState(
                self.control_blocks,
                self.zero,
                control,
                text,
                control_scale if active is None else control_scale * active,
                (temb, image_rotary_emb, attention_kwargs),
                self._checkpointed,
                share_text_stream=self.config.share_text_stream,
                chain_through_zero=self.config.chain_through_zero,
            )

        in_blocks = self._injection_slot is not None  # a cache is on: see injection.py
        if in_blocks:
            self._injection_slot.state = injection
        try:
            for i, block in enumerate(self.transformer_blocks):
                video, text = self._checkpointed(block, video, text, temb, image_rotary_emb, attention_kwargs)
                if injection is not None and not in_blocks:
                    video = injection(i, video, text)
        finally:
            if in_blocks:
                self._injection_slot.state = None

        video = self.proj_out(self.norm_out(self.norm_final(video), temb=temb))
        p = self.config.patch_size
        # (B, F h/p w/p, C p p) -> (B, F, C, h, w)
        output = video.reshape(batch, frames, height // p, width // p, -1, p, p)
        output = output.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def _embed_time(self, timestep: Tensor, timestep_cond: Tensor | None, ofs: Any, dtype: torch.dtype) -> Tensor:
        """(B, time_embed_dim). The sinusoids are float32 whatever the weights are, hence the cast."""
        temb = self.time_embedding(self.time_proj(timestep).to(dtype), timestep_cond)
        if self.ofs_embedding is not None:
            temb = temb + self.ofs_embedding(self.ofs_proj(ofs).to(dtype))
        return temb

    def _start_control(
        self,
        video: Tensor,
        text_embeds: Tensor,
        hidden_states: Tensor,
        tracking_latents: Tensor | None,
        point_grid: Tensor | None,
        tracking_keep: Tensor | None,
        points_keep: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """What the first control block reads, ``fuse(cat[h + t, p])`` (B, S, D), and (B, 1, 1) which samples have a
        condition at all (None: all of them)."""
        batch, frames, _, height, width = hidden_states.shape
        conditioned = torch.zeros(batch, 1, 1, dtype=video.dtype, device=video.device)
        tracked, points = video, None
        if tracking_latents is not None:
            if tracking_latents.shape != hidden_states.shape:
                raise ValueError(
                    f"tracking_latents: shape {tuple(tracking_latents.shape)}, must be that of hidden_states, "
                    f"{tuple(hidden_states.shape)}"
                )
            t = self.patch_embed(text_embeds, tracking_latents.to(hidden_states.dtype))[:, text_embeds.shape[1] :]
            keep = _keep_mask(tracking_keep, conditioned)
            tracked, conditioned = video + t * keep, torch.maximum(conditioned, keep)
        if point_grid is not None:
            self._check_point_cloud("point_grid")
            expected = (batch, frames, self.point_patch_embed.in_channels, height, width)
            if point_grid.shape != expected:
                raise ValueError(f"point_grid: shape {tuple(point_grid.shape)}, must be {expected}")
            p = self.point_patch_embed(point_grid.flatten(0, 1).to(self.point_patch_embed.weight.dtype))
            p = p.flatten(2).transpose(1, 2).reshape(batch, -1, p.shape[1])  # (B, F h/p w/p, D), as patch_embed orders
            keep = _keep_mask(points_keep, conditioned)
            points, conditioned = p * keep, torch.maximum(conditioned, keep)
        if self.config.point_cloud:
            points = torch.zeros_like(video) if points is None else points.to(video.dtype)
            tracked = torch.cat([tracked, points], dim=-1)
        control = self.fuse(tracked)
        return control, None if tracking_keep is None and points_keep is None else conditioned

    def _check_point_cloud(self, name: str) -> None:
        if not self.config.point_cloud:
            raise ValueError(f"{name}: this model takes no point cloud (point_cloud is false); leave it out")

    def _checkpointed(self, function: Any, *args: Any) -> Any:
        """``function(*args)``, recomputed in the backward pass where gradient checkpointing is on."""
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(function, *args)
        return function(*args)


def materialise(module: nn.Module, device: torch.device | str = "cpu") -> nn.Module:
    """Give a module that was built on the meta device memory and freshly drawn weights."""
    module.to_empty(device=device)
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    return module


def _keep_mask(keep: Tensor | None, like: Tensor) -> Tensor:
    """(B,) bool, or None for all, -> (B, 1, 1) of ones and zeros."""
    return torch.ones_like(like) if keep is None else keep.to(like).view(-1, 1, 1)
