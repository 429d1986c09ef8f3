# SPDX-License-Identifier: Apache-2.0
"""Which clips belong together: what ``manifest.jsonl`` beside the clips says of each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import EvaluationError

ALL = "all"
MANIFEST = "manifest.jsonl"


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest's lines by clip name (``name``, or else ``seed``); the last line of a name counts.

    No manifest is an empty one. Raises EvaluationError, naming the line, for one that cannot be read.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {}
    lines: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            said = json.loads(line)
            name = str(said["name"] if "name" in said else said["seed"])
            listed = said.get("subsets", [])
            if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
                raise ValueError(f"subsets is {listed!r}, not a list of names")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EvaluationError(
                f"{path}, line {number}: {error!r}; each line is one clip's JSON object with a seed or a name"
            ) from None
        lines[name] = said
    return lines


def subsets_of(said: dict[str, Any]) -> list[str]:
    """The named subsets of one manifest line, its ``split`` first."""
    split = [said["split"]] if isinstance(said.get("split"), str) else []
    return list(dict.fromkeys([*split, *said.get("subsets", [])]))


def matches(said: dict[str, Any], subset: str) -> bool:
    """Whether a clip is in ``subset``: ``all``, a named subset, or ``KEY=VALUE`` of its manifest line."""
    key, equals, value = subset.partition("=")
    if equals:
        return str(said.get(key)) == value
    return subset == ALL or subset in subsets_of(said)


def members(manifest: Iterable[dict[str, Any]], wanted: Iterable[str] | None = None) -> dict[str, list[int]]:
    """Indices of the clips (given by their manifest lines, in order) in each subset; ``all`` first.

    Without ``wanted``: every named subset that is not the whole. A wanted one without a clip raises EvaluationError.
    """
    clips = list(manifest)
    named = list(dict.fromkeys(name for said in clips for name in subsets_of(said)))
    found = {ALL: list(range(len(clips)))}
    for subset in named if wanted is None else wanted:
        index = [i for i, said in enumerate(clips) if matches(said, subset)]
        if wanted is not None and not index:
            keys = sorted({key for said in clips for key, value in said.items() if isinstance(value, str)})
            raise EvaluationError(
                f"subset {subset!r} has no clip here; there are {', '.join([ALL, *named])}"
                + (f", and KEY=VALUE with one of {', '.join(keys)}" if keys else "")
            )
        if wanted is not None or 0 < len(index) < len(clips):
            found[subset] = index
    return found
