# SPDX-License-Identifier: GPL-3.0-or-later
"""A static extension repository: a folder that any web server can serve, and that Blender can subscribe to.

``index.json`` is Blender's listing (v1) of the zips in the folder, ``index.html`` says how to subscribe. The same zips
give the same bytes. Standard library only; tests hold the listing against the one that Blender's own tool writes.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import tomllib
import urllib.parse
import zipfile
from pathlib import Path
from typing import Any

LISTING = "index.json"
PAGE = "index.html"
# What a listing tells of an extension, as far as its manifest says it, in this order.
_FIELDS = (
    *("schema_version", "id", "name", "tagline", "version", "type", "maintainer", "license"),
    *("blender_version_min", "blender_version_max", "website", "copyright", "permissions", "tags", "platforms"),
)


class RepositoryError(Exception):
    """A folder that cannot become a repository; says what is wrong and what to do."""


def write_repository(folder: Path) -> list[dict[str, Any]]:
    """Lists the newest version of every extension whose zip is in ``folder``; the entries of the listing.

    Older zips stay where they are, for people who keep a link to them: Blender would offer them beside the newest.
    Raises :class:`RepositoryError`.
    """
    newest: dict[str, dict[str, Any]] = {}
    for archive in sorted(folder.glob("*.zip")):
        entry = _entry(archive)
        known = newest.get(entry["id"])
        if known is None or _order(entry["version"]) > _order(known["version"]):
            newest[entry["id"]] = entry
    if not newest:
        raise RepositoryError(f"{folder}: there is no extension's zip in it; build one into it first")
    entries = [newest[name] for name in sorted(newest)]
    listing = {"version": "v1", "blocklist": [], "data": entries}
    _write(folder / LISTING, json.dumps(listing, indent=2, ensure_ascii=False) + "\n")
    _write(folder / PAGE, _page(entries))
    return entries


def _entry(archive: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(archive) as file:
            manifest = tomllib.loads(file.read("blender_manifest.toml").decode("utf-8"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise RepositoryError(f"{archive}: not an extension ({error}); take it out of the folder") from None
    missing = [
        name for name in ("schema_version", "id", "name", "version", "blender_version_min") if name not in manifest
    ]
    if missing:
        raise RepositoryError(f"{archive}: its manifest lacks {missing[0]!r}; build it anew")
    if "wheels" in manifest:
        raise RepositoryError(
            f"{archive}: it carries wheels, which this listing does not describe; use Blender's own tool"
        )
    data = archive.read_bytes()
    return {
        **{name: manifest[name] for name in _FIELDS if name in manifest},
        "archive_url": f"./{urllib.parse.quote(archive.name)}",
        "archive_size": len(data),
        "archive_hash": f"sha256:{hashlib.sha256(data).hexdigest()}",
    }


def _order(version: str) -> tuple:
    """Semantic versions in their order: numbers as numbers, and a release after its candidates."""
    release, _, candidate = version.partition("+")[0].partition("-")
    numbers = tuple(int(part) for part in release.split("."))
    parts = tuple(
        (part.isdecimal() is False, int(part) if part.isdecimal() else 0, part) for part in candidate.split(".")
    )
    return numbers, not candidate, parts


def drop_link(entry: dict[str, Any]) -> str:
    """The address that Blender understands when the link is dragged into its window."""
    query = {"repository": f"./{LISTING}"}
    query |= {name: entry[name] for name in ("blender_version_min", "blender_version_max") if name in entry}
    if "platforms" in entry:
        query["platforms"] = ",".join(entry["platforms"])
    return f"{entry['archive_url']}?{urllib.parse.urlencode(query)}"


def _write(path: Path, text: str) -> None:
    """In one go, so that who asks meanwhile gets the old or the new one."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(text.encode("utf-8"))
    os.replace(part, path)


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; }
body { font: 1rem/1.6 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
section { border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.3rem; margin: 1.2rem 0; }
.drop { display: inline-block; padding: .6rem 1.1rem; border-radius: .5rem; background: #b0480e; color: #fff;
  text-decoration: none; font-weight: 600; cursor: grab; }
code, .url { font-family: ui-monospace, monospace; font-size: .92em; overflow-wrap: anywhere; }
.url { display: block; border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .8rem; user-select: all; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem 1.2rem; } small { color: var(--soft); }
"""
_SCRIPT = """
document.getElementById("listing").textContent = new URL("index.json", location.href).href;
"""


def _page(entries: list[dict[str, Any]]) -> str:
    title = "Extensions for Blender" if len(entries) > 1 else f"{entries[0]['name']} for Blender"
    sections = "\n".join(_section(entry) for entry in entries)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{html.escape(title)}</h1>
{sections}
<h2>Subscribe, so that Blender finds new versions</h2>
<ol>
<li>In Blender open <b>Edit &gt; Preferences &gt; Get Extensions</b>, and there <b>Repositories</b> at the top.</li>
<li>Press <b>+</b>, choose <b>Add Remote Repository</b>, and paste this address:
<span class="url" id="listing">the address of this page, with index.json at its end</span></li>
<li>Tick <b>Check for Updates on Startup</b> if you like, and press <b>Create</b>.</li>
<li>Look for the extension's name among those that are available, and press <b>Install</b>.</li>
</ol>
<p>Blender asks for online access the first time; it can be switched off again under
<b>Preferences &gt; System &gt; Network</b>.</p>
<h2>Without a subscription</h2>
<p>Download the zip with a click on its link, and drag the file into Blender's window, or choose
<b>Get Extensions &gt; Install from Disk</b>.</p>
</main>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _section(entry: dict[str, Any]) -> str:
    versions = f"Blender {entry['blender_version_min']} or newer"
    if "blender_version_max" in entry:
        versions = f"Blender {entry['blender_version_min']} to before {entry['blender_version_max']}"
    permissions = "".join(
        f"<dt>May use: {html.escape(name)}</dt><dd>{html.escape(reason)}</dd>"
        for name, reason in sorted(entry.get("permissions", {}).items())
    )
    licences = ", ".join(text.removeprefix("SPDX:") for text in entry.get("license", ()))
    name = f"{entry['name']} {entry['version']}"
    return f"""<section>
<p>{html.escape(entry.get("tagline", ""))}</p>
<p><a class="drop" href="{html.escape(drop_link(entry))}">{html.escape(name)}</a>
&nbsp; drag this into Blender's window</p>
<dl>
<dt>Runs in</dt><dd>{html.escape(versions)}, on {html.escape(", ".join(entry.get("platforms", ["every system"])))}</dd>
{permissions}
<dt>Licence</dt><dd>{html.escape(licences)}</dd>
</dl>
<small>{entry["archive_size"]} bytes, <code>{html.escape(entry["archive_hash"])}</code></small>
</section>"""
