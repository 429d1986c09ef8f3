# SPDX-License-Identifier: Apache-2.0
"""Guidance that rises over the denoising steps."""

from __future__ import annotations

import math


def dynamic_guidance_scale(
    kind: bool | str, guidance_scale: float, *, step: int, timestep: float, steps: int, power: float = 5.0
) -> float:
    """1 + g (1 - cos(pi x^5)) / 2, from 1 to 1 + g as x goes from 0 to 1.

    kind "steps": x is the fraction of the steps that are done. kind True: diffusers'
    pipelines put the timestep (999 .. 0) in the place of the step index, so that x runs from far below 0 and the scale
    jumps about; kept because bit-equality with them is promised. Raises ValueError for another kind.
    """
    if kind is True:
        progress = (steps - timestep) / steps
    elif kind == "steps":
        progress = step / steps
    else:
        raise ValueError(f'use_dynamic_cfg: {kind!r}, must be False, True or "steps"')
    return 1 + guidance_scale * (1 - math.cos(math.pi * progress**power)) / 2
