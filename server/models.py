# SPDX-License-Identifier: Apache-2.0
"""The models that jobs may name, as the server sees them: without torch, without loading one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server.backend import split_spec
from server.errors import ApiError
from server.retries import Ladder


class ModelError(ValueError):
    """``--model`` cannot be used."""


class Models:
    """The registry's models, and the operator's own folder if ``default`` is one. Clients name ids, never paths."""

    def __init__(self, backend: str, default: str) -> None:
        self._registry = split_spec(backend)[0]
        try:
            entry = self._registry.find_model(default)
        except ValueError as error:
            raise ModelError(f"--model {default}: {error}") from error
        self.default: str = entry["id"]
        self._folder = str(Path(default).absolute()) if default != self.default else None
        self._folder_entry = entry
        find_ladder = getattr(self._registry, "memory_ladder", None)
        self._ladder: Ladder = find_ladder() if find_ladder is not None else ((),)

    def all(self) -> list[dict[str, Any]]:
        """Asked anew each time: models are installed while the server runs. Where they lie is nobody's business."""
        models = list(self._registry.list_models())
        if self._folder is not None:
            models = [self._folder_entry, *(model for model in models if model["id"] != self.default)]
        return [
            {**{key: value for key, value in model.items() if key != "path"}, "default": model["id"] == self.default}
            for model in models
        ]

    def check(self, name: str | None) -> str:
        """The id for a request's ``model``, or the reason why it cannot be used."""
        if name is None:
            return self.default
        models = {model["id"]: model for model in self.all()}
        if name not in models:
            raise ApiError(
                422,
                "unknown_model",
                f"request.model: there is no model {name!r}",
                field="request.model",
                remedy=f"use one of {', '.join(models)}",
            )
        if not models[name]["installed"]:
            raise ApiError(
                422,
                "model_not_installed",
                f"request.model: the model {name!r} is not on this server",
                field="request.model",
                remedy=f"run on the server: hvg3d models pull {name}",
            )
        return name

    def source(self, name: str) -> str:
        """What the worker loads for an id."""
        return self._folder if self._folder is not None and name == self.default else name

    def check_memory(self, modes: Sequence[str] | None) -> None:
        known = sorted({mode for rung in self._ladder for mode in rung})
        for mode in modes or ():
            if mode not in known:
                raise ApiError(
                    422,
                    "unknown_memory_mode",
                    f"request.memory: there is no memory mode {mode!r}",
                    field="request.memory",
                    remedy=f"use some of {', '.join(known)}" if known else "leave it out: this server has none",
                )

    def ladder(self, request: dict[str, Any]) -> Ladder:
        """Memory modes to generate a request with, from what it asks for to the smallest."""
        asked = request.get("memory")
        if asked is None:
            return self._ladder
        for rung, modes in enumerate(self._ladder):
            if set(modes) == set(asked):
                return self._ladder[rung:]
        return (asked,)
