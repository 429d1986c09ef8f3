# SPDX-License-Identifier: Apache-2.0
"""The description of the API as a file: ``python -m server.openapi`` writes ``server/openapi.json`` anew.

It is kept in the repository so that a change of the API shows in its history, and clients can be made from it without
a server. ``--check`` compares, and ends with exit code 1 where they differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

FILE = Path(__file__).with_name("openapi.json")
DESCRIPTION = """Clips in, videos out. Every request needs the header `Authorization: Bearer TOKEN`; a browser may use a
session cookie instead (POST /v1/session), and then sends the header `X-HVG3D: 1` with all but GET and HEAD.
Every refusal has the body `{"error": {"code", "message", "field", "remedy"}}`."""


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the server's application."""
    document = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
    components = document.setdefault("components", {})
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"token": []}]
    for probe in ("live", "ready"):
        document["paths"][f"/v1/health/{probe}"]["get"]["security"] = []
    return document


def current() -> dict[str, Any]:
    """The document of this version of the server."""
    from server.app import create_app
    from server.config import Settings
    from server.context import build_context
    from server.files import Home

    with tempfile.TemporaryDirectory() as folder:
        context = build_context(Settings(home=Path(folder)), Home(Path(folder)), "no-token-is-needed")
        document = describe(create_app(context))
        context.store.close()
    return document


def as_text(document: dict[str, Any]) -> str:
    """Without the version, which would change the file with every release."""
    document = {**document, "info": {**document["info"], "version": "v1"}}
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m server.openapi", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the file is out of date")
    text = as_text(current())
    if not parser.parse_args().check:
        FILE.write_text(text, "utf-8")
        print(f"wrote {FILE}")
    elif not FILE.exists() or FILE.read_text("utf-8") != text:
        print(f"{FILE} is out of date: run python -m server.openapi", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
