# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that every command line of a batch has, and the plan that comes of them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..client.http import Address
from .plan import Plan, PlanError, load_plan, parse_plan, plan_toml


def add_options(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to make (in place of what the plan says)")
    what.add_argument("--scene", action="append", metavar="NAME", help="a scene, or 'all'; may be given again")
    what.add_argument("--camera", action="append", metavar="NAME", help="a camera, 'own' (of the shot), or 'all'")
    what.add_argument("--action", action="append", metavar="NAME", help="an action, 'own' (as it is), or 'all'")
    what.add_argument("--seeds", metavar="LIST", help="such as 1,2,5-8")
    what.add_argument("--seed-count", type=int, metavar="N", help="so many seeds, from the scene's own on")
    what.add_argument("--model", metavar="ID", help="a model's id")
    what.add_argument("--prompt", help="in place of the scene's own")
    what.add_argument("--quality", metavar="NAME", help="draft, standard or fine")
    what.add_argument("--steps", type=int, metavar="N", help="steps of the network")
    how = parser.add_argument_group("how to make it")
    how.add_argument("--out", metavar="DIR", help="folder for clips, videos, state and report")
    how.add_argument("--server", metavar="URL", help="address of a server, its home folder, or 'local'")
    how.add_argument("--token-file", type=Path, metavar="FILE", help="token for that address (else HVG3D_TOKEN)")
    how.add_argument("--in-flight", type=int, metavar="N", help="jobs on the server at the same time (8)")
    how.add_argument("--retry-failed", action="store_true", help="try again what has failed before")
    how.add_argument("--dry-run", action="store_true", help="list the shots, and make nothing")


def plan_from(given: argparse.Namespace, config: Path | None) -> Plan:
    """The plan of ``config``, or an empty one, with the options in it. Raises :class:`PlanError`."""
    plan = load_plan(config) if config is not None else Plan()
    values = {
        "scenes": _all(given.scene),
        "cameras": _all(given.camera),
        "actions": _all(given.action),
        "seeds": given.seeds,
        "seed_count": given.seed_count,
        "model": given.model,
        "prompt": given.prompt,
        "quality": given.quality,
        "steps": given.steps,
    }
    named = {name: value for name, value in values.items() if value is not None}
    if named:
        # Through the plan's own reader, so that a wrong value is refused in the same words.
        chosen = parse_plan(_toml(named), "options").selections[0]
        given_fields: dict[str, Any] = {
            name: getattr(chosen, name) for name in ("scenes", "cameras", "actions") if name in named
        }
        if chosen.seeds is not None or chosen.seed_count is not None:
            given_fields |= {"seeds": chosen.seeds, "seed_count": chosen.seed_count}
        plan = replace(
            plan,
            selections=tuple(
                replace(
                    selection,
                    **given_fields,
                    request=tuple(sorted((dict(selection.request) | dict(chosen.request)).items())),
                )
                for selection in plan.selections
            ),
        )
    if given.in_flight is not None:
        plan = replace(plan, in_flight=parse_plan(f"in_flight = {given.in_flight}", "options").in_flight)
    if given.out is not None:
        plan = replace(plan, out=given.out)
    return parse_plan(plan_toml(plan))


def _all(names: list[str] | None) -> list[str] | str | None:
    return names[0] if names is not None and len(names) == 1 and names[0] in ("all", "own") else names


def _toml(values: dict[str, Any]) -> str:
    import json

    return "\n".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items())


def address_from(given: argparse.Namespace, default: Callable[[], Address]) -> Callable[[], Address]:
    """Where the server is. Raises :class:`PlanError` where a token is missing."""
    if given.server is None:
        return default
    if not given.server.startswith(("http://", "https://")):
        return default if given.server == "local" else (lambda: Address(home=given.server))
    token = os.environ.get("HVG3D_TOKEN", "")
    if given.token_file is not None:
        try:
            token = given.token_file.read_text("utf-8").strip()
        except OSError as error:
            raise PlanError(f"--token-file: {given.token_file}: {error.strerror}; copy the file 'token' here") from None
    if not token:
        raise PlanError(
            f"--server: there is no token for {given.server}; give --token-file or set HVG3D_TOKEN "
            "(the file 'token' in the server's home folder)"
        )
    address = Address(url=given.server, token=token)
    return lambda: address
