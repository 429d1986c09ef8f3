# SPDX-License-Identifier: Apache-2.0
"""Image, prompt, point cloud and 3D tracking to video, in diffusers' conventions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler, CogVideoXImageToVideoPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.hooks import PyramidAttentionBroadcastConfig
from diffusers.hooks.group_offloading import _is_group_offload_enabled
from diffusers.image_processor import PipelineImageInput
from diffusers.models import AutoencoderKLCogVideoX
from diffusers.pipelines.cogvideo.pipeline_cogvideox_image2video import retrieve_timesteps
from diffusers.pipelines.cogvideo.pipeline_output import CogVideoXPipelineOutput
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from ..conditions.frames import check_frame_count
from ..models import HVG3DTransformer3DModel
from .condition_tensors import point_tensors, tracking_tensor
from .guidance import dynamic_guidance_scale
from .memory import MemoryState, retrace_prefetch
from .windows import Blend, Window, default_overlap, plan_windows


class HVG3DImageToVideoPipeline(CogVideoXImageToVideoPipeline):
    """CogVideoX image-to-video, conditioned on a point cloud and a 3D tracking video, each of which may be missing.

    With the same seed and a zero-initialised control branch, or without conditions, the result is that of
    ``CogVideoXImageToVideoPipeline``, bit for bit: conditions draw no random numbers. The tokenizer and text encoder
    may be None where ``prompt_embeds`` are given.
    """

    _optional_components: ClassVar[list[str]] = ["tokenizer", "text_encoder"]
    # Beside diffusers' own, for previews: the latents that the step's prediction leads to without noise, and those of
    # the image. Changing them changes nothing.
    _callback_tensor_inputs: ClassVar[list[str]] = [
        *CogVideoXImageToVideoPipeline._callback_tensor_inputs,
        "clean_latents",
        "image_latents",
    ]

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        text_encoder: T5EncoderModel | None,
        vae: AutoencoderKLCogVideoX,
        transformer: HVG3DTransformer3DModel,
        scheduler: CogVideoXDDIMScheduler | CogVideoXDPMScheduler,
    ) -> None:
        super().__init__(tokenizer, text_encoder, vae, transformer, scheduler)
        self.memory_state = MemoryState()
        self._control_used = True  # in the last step, of this call or of the one before

    def check_size(self, height: int, width: int, num_frames: int) -> None:
        """Raise ValueError unless the model can make a video of this size, naming what it can make."""
        config = self.transformer.config
        step = self.vae_scale_factor_spatial * config.patch_size
        for name, value in (("height", height), ("width", width)):
            if value <= 0 or value % step:
                low = max(value // step * step, step)
                raise ValueError(f"{name}: {value} must be divisible by {step}; use {low} or {low + step}")
        if config.use_learned_positional_embeddings:
            only = tuple(n * self.vae_scale_factor_spatial for n in (config.sample_height, config.sample_width))
            if (height, width) != only:
                raise ValueError(f"height, width: {height} x {width}, but this model makes only {only[0]} x {only[1]}")
        check_frame_count(num_frames)

    def encode_tracking_video(self, video: Tensor, dtype: torch.dtype) -> Tensor:
        """A tracking video (B, T, H, W, 3) uint8 as the transformer's ``tracking_latents`` (B, F, 2C, h, w).

        The first half of the channels is the video; the second is its first frame alone, followed by zeros, like the
        image's latents in CogVideoX. The distributions' modes, so that nothing is random.
        """
        pixels = video.permute(0, 4, 1, 2, 3).float() / 255  # (B, 3, T, H, W)
        signed = 2 * pixels - 1
        # DaS's released code gives the first frame in [-1, 1] even where the video is in [0, 1].
        in_range = signed if self.transformer.config.tracking_range == "minus_one_one" else pixels
        latents, first = (
            torch.cat([self.vae.encode(x.to(dtype)).latent_dist.mode() for x in clips.split(1)])
            .to(dtype)
            .transpose(1, 2)
            * self.vae_scaling_factor_image
            for clips in (in_range, signed[:, :, :1])
        )
        padded = torch.cat([first, torch.zeros_like(latents[:, 1:])], dim=1)
        return torch.cat([latents, padded], dim=2)

    @torch.no_grad()
    def __call__(
        self,
        image: PipelineImageInput,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 50,
        timesteps: list[int] | None = None,
        guidance_scale: float = 6,
        use_dynamic_cfg: bool | str = False,
        num_videos_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        points: Any = None,
        point_entity: Any = None,
        point_valid: Any = None,
        intrinsics: Any = None,
        world_to_camera: Any = None,
        tracking_video: Any = None,
        control_scale: float = 1.0,
        control_start: float = 0.0,
        control_end: float = 1.0,
        window_frames: int | None = None,
        window_overlap: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable[..., dict[str, Any]] | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        max_sequence_length: int | None = None,
    ) -> CogVideoXPipelineOutput | tuple[Any]:
        """Make a video. Arguments that are not named here are those of ``CogVideoXImageToVideoPipeline``.

        Args:
            height, width, num_frames: default to the transformer's own.
            points: (T, N, 3), or (B, T, N, 3), array or tensor: the normalised point cloud of every frame.
            point_entity: (N,) role index + 1, 0 for padding.
            point_valid: (T, N) bool.
            intrinsics: (T, 3, 3) for image coordinates in [0, 1]².
            world_to_camera: (T, 4, 4) in the units of ``points``; the identity by default.
            tracking_video: (T, H, W, 3) uint8, of the size and length of the result.
            control_scale: what the branch adds is multiplied by this.
            control_start, control_end: fractions of the steps between which the branch is used.
            use_dynamic_cfg: guidance that rises over the steps: True is diffusers' formula, bit for bit, which takes
                the timestep for a step index; "steps" is the same curve over the steps, as CogVideoX was made with.
            window_frames: the network sees this many frames at a time, in overlapping windows whose predictions are
                averaged (see ``windows.py``); by default all at once.
            window_overlap: latent frames that two windows share; by default half of a window.
            max_sequence_length: of the prompt in tokens; the transformer's own by default.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        config, device = self.transformer.config, self._execution_device
        height = height or config.sample_height * self.vae_scale_factor_spatial
        width = width or config.sample_width * self.vae_scale_factor_spatial
        num_frames = num_frames or config.sample_frames
        self.check_size(height, width, num_frames)
        self.check_inputs(
            image=image,
            prompt=prompt,
            height=height,
            width=width,
            negative_prompt=negative_prompt,
            callback_on_step_end_tensor_inputs=list(callback_on_step_end_tensor_inputs),
            latents=latents,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
        )
        guided = guidance_scale > 1.0
        if (self.text_encoder is None or self.tokenizer is None) and (
            prompt_embeds is None or (guided and negative_prompt_embeds is None)
        ):
            raise ValueError(
                "prompt: this pipeline has no text encoder; give prompt_embeds"
                + (" and negative_prompt_embeds" if guided else "")
            )
        latent_frames = (num_frames - 1) // self.vae_scale_factor_temporal + 1
        windows = self._plan_windows(latent_frames, window_frames, window_overlap)
        if num_videos_per_prompt != 1:
            raise ValueError(f"num_videos_per_prompt: {num_videos_per_prompt}, must be 1; call once per video")
        if not 0.0 <= control_start <= control_end <= 1.0:
            raise ValueError(
                f"control_start {control_start}, control_end {control_end}: must be 0 <= start <= end <= 1"
            )
        self._guidance_scale, self._attention_kwargs = guidance_scale, attention_kwargs
        self._current_timestep, self._interrupt = None, False
        if prompt is None:
            batch = prompt_embeds.shape[0]
        else:
            batch = 1 if isinstance(prompt, str) else len(prompt)

        # Checked before any work is done, encoded after the text.
        point_inputs: dict[str, Tensor] = {}
        if points is not None:
            point_inputs = point_tensors(
                points,
                point_entity,
                point_valid,
                intrinsics,
                world_to_camera,
                num_frames=num_frames,
                batch=batch,
                device=device,
            )
        if tracking_video is not None:
            tracking_video = tracking_tensor(
                tracking_video, num_frames=num_frames, height=height, width=width, batch=batch, device=device
            )

        prompt_embeds, negative_prompt_embeds = self.memory_state.encode_prompt(
            self,
            prompt=prompt,
            negative_prompt=negative_prompt,
            do_classifier_free_guidance=guided,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            max_sequence_length=max_sequence_length or config.max_text_seq_length,
            device=device,
        )
        if guided:
            prompt_embeds = torch.cat([negative_prompt_embeds, prompt_embeds], dim=0)
        dtype = prompt_embeds.dtype

        timesteps, num_inference_steps = retrieve_timesteps(self.scheduler, num_inference_steps, device, timesteps)
        self._num_timesteps = len(timesteps)

        pixels = self.video_processor.preprocess(image, height=height, width=width).to(device, dtype=dtype)
        latents, image_latents = self.prepare_latents(
            pixels, batch, config.in_channels // 2, num_frames, height, width, dtype, device, generator, latents
        )
        conditions = self._prepare_conditions(point_inputs, tracking_video, image_latents, dtype)
        extra_step_kwargs = self.prepare_extra_step_kwargs(generator, eta)
        rotary = None
        if config.use_rotary_positional_embeddings:
            rotary = self._prepare_rotary_positional_embeddings(height, width, len(windows[0].index), device)
        ofs = None if config.ofs_embed_dim is None else latents.new_full((1,), fill_value=2.0)
        if guided:
            image_latents = torch.cat([image_latents] * 2)
            conditions = {name: torch.cat([value] * 2) for name, value in conditions.items()}

        num_warmup_steps = max(len(timesteps) - num_inference_steps * self.scheduler.order, 0)
        old_clean = None  # of DPM-Solver
        self._check_cache(windows)
        self.transformer._reset_stateful_cache()  # an interrupted run leaves its own behind
        blend = Blend(windows, latents.shape[1], device) if len(windows) > 1 else None
        with self.progress_bar(total=num_inference_steps) as progress_bar:
            for i, t in enumerate(timesteps):
                if self.interrupt:
                    continue
                self._current_timestep = t
                model_input = torch.cat([latents] * 2) if guided else latents
                model_input = torch.cat([self.scheduler.scale_model_input(model_input, t), image_latents], dim=2)
                used = control_start <= i / len(timesteps) and (i + 1) / len(timesteps) <= control_end
                if (used and bool(conditions)) != self._control_used:
                    self._control_used = used and bool(conditions)
                    self._control_changed()
                prediction = self._predict(
                    model_input,
                    conditions if used else {},
                    blend,
                    encoder_hidden_states=prompt_embeds,
                    timestep=t.expand(model_input.shape[0]),
                    ofs=ofs,
                    image_rotary_emb=rotary,
                    attention_kwargs=attention_kwargs,
                    control_scale=control_scale,
                )
                if use_dynamic_cfg:
                    self._guidance_scale = dynamic_guidance_scale(
                        use_dynamic_cfg, guidance_scale, step=i, timestep=t.item(), steps=num_inference_steps
                    )
                if guided:
                    unconditional, conditional = prediction.chunk(2)
                    prediction = unconditional + self.guidance_scale * (conditional - unconditional)

                if isinstance(self.scheduler, CogVideoXDPMScheduler):
                    before = timesteps[i - 1] if i > 0 else None
                    latents, clean = self.scheduler.step(
                        prediction, old_clean, t, before, latents, **extra_step_kwargs, return_dict=False
                    )
                    old_clean = clean
                else:
                    latents, clean = self.scheduler.step(prediction, t, latents, **extra_step_kwargs, return_dict=False)
                latents = latents.to(dtype)

                if callback_on_step_end is not None:
                    tensors = {
                        "latents": latents,
                        "prompt_embeds": prompt_embeds,
                        "negative_prompt_embeds": negative_prompt_embeds,
                        "clean_latents": clean,
                        "image_latents": image_latents[:batch],
                    }
                    wanted = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    changed = callback_on_step_end(self, i, t, wanted)
                    latents = changed.pop("latents", latents)
                    prompt_embeds = changed.pop("prompt_embeds", prompt_embeds)
                if i == len(timesteps) - 1 or (i + 1 > num_warmup_steps and (i + 1) % self.scheduler.order == 0):
                    progress_bar.update()
        self._current_timestep = None

        output = self.output_of(latents, output_type)
        self.maybe_free_model_hooks()
        return output if return_dict else (output.frames,)

    def _predict(
        self, model_input: Tensor, conditions: dict[str, Tensor], blend: Blend | None, **arguments: Any
    ) -> Tensor:
        """The transformer's prediction for the whole clip, in one go or window by window; float32."""

        def predict(k: int, x: Tensor, given: dict[str, Tensor]) -> Tensor:
            with self.transformer.cache_context("cond_uncond" if k == 0 else f"cond_uncond_{k}"):
                return self.transformer(hidden_states=x, **given, **arguments, return_dict=False)[0].float()

        if blend is None:
            return predict(0, model_input, conditions)
        return blend(
            lambda k, window, index: predict(
                k, model_input[:, index], {n: _select(n, x, window, index) for n, x in conditions.items()}
            )
        )

    @torch.no_grad()
    def output_of(self, latents: Tensor, output_type: str) -> CogVideoXPipelineOutput:
        """Latents (B, F, C, h, w) as what a call returns."""
        if output_type == "latent":
            return CogVideoXPipelineOutput(frames=latents)
        video = self.decode_latents(latents)
        return CogVideoXPipelineOutput(frames=self.video_processor.postprocess_video(video, output_type=output_type))

    @property
    def _execution_device(self) -> torch.device:
        """Not that of the first component, which a memory mode may keep elsewhere."""
        return self.memory_state.device or super()._execution_device

    def _plan_windows(self, latent_frames: int, window_frames: int | None, overlap: int | None) -> list[Window]:
        if window_frames is None:
            return plan_windows(latent_frames, latent_frames, 0)
        check_frame_count(window_frames)
        window = (window_frames - 1) // self.vae_scale_factor_temporal + 1
        return plan_windows(latent_frames, window, default_overlap(window) if overlap is None else overlap)

    def _check_cache(self, windows: list[Window]) -> None:
        config = getattr(self.transformer, "_cache_config", None)
        if len(windows) > 1 and isinstance(config, PyramidAttentionBroadcastConfig):
            raise ValueError(
                f"cache: PyramidAttentionBroadcast keeps one state, which {len(windows)} windows cannot share; use "
                "first_block or taylorseer, or no windows"
            )

    def _control_changed(self) -> None:
        """From this step on the branch is used, or no longer: what was remembered of the last steps is void."""
        self.transformer._reset_stateful_cache()
        retrace_prefetch(self.transformer)

    def _prepare_conditions(
        self,
        point_inputs: dict[str, Tensor],
        tracking_video: Tensor | None,
        image_latents: Tensor,
        dtype: torch.dtype,
    ) -> dict[str, Tensor]:
        """The transformer's arguments that stay the same over all steps, without guidance's doubling."""
        conditions: dict[str, Tensor] = {}
        if tracking_video is not None:
            latents = self.encode_tracking_video(tracking_video, dtype)
            conditions["tracking_latents"] = latents.expand(image_latents.shape[0], -1, -1, -1, -1)
        if not point_inputs:
            return conditions
        # Offloading moves weights when forward() is called, so there the points go through it at every step (it costs
        # next to nothing beside the blocks of a model that needs offloading). Otherwise they are encoded once.
        offloaded = hasattr(self.transformer, "_hf_hook") or _is_group_offload_enabled(self.transformer)
        if offloaded:
            return conditions | point_inputs
        grid = self.transformer.encode_point_cloud(
            **point_inputs, size=tuple(image_latents.shape[-2:]), reference_latents=image_latents[:, 0]
        )
        return conditions | {"point_grid": grid}


def _select(name: str, value: Tensor, window: Window, index: Tensor) -> Tensor:
    """A condition of the whole clip as one window sees it: latent frames, or frames for what the points come as."""
    if name in ("tracking_latents", "point_grid"):
        return value[:, index]
    return value if name == "point_entity" else value[:, window.frames()]
