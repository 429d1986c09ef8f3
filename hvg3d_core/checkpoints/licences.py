# SPDX-License-Identifier: Apache-2.0
"""Licences that a person has agreed to, remembered beside the models, so that each is asked for once."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from .registry import Licence, ModelError, models_home


def _file() -> Path:
    return models_home() / "accepted_licences.json"


def accepted_licences() -> dict[str, str]:
    """Name of each licence agreed to, and when."""
    try:
        return dict(json.loads(_file().read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, ValueError, TypeError) as error:
        raise ModelError(f"{_file()}: {error}; remove that file and agree again") from None


def accept(licence: Licence) -> None:
    """Remember that this licence has been agreed to."""
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True)
    known = accepted_licences() | {licence.name: datetime.now(UTC).isoformat(timespec="seconds")}
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    partial.replace(file)
