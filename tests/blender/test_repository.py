# SPDX-License-Identifier: GPL-3.0-or-later
"""The extension repository: the listing is Blender's own, byte for byte the same each time, and Blender subscribes."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
import zipfile
from pathlib import Path

import pytest

from blender_addon import build_extension
from blender_addon.repository import RepositoryError, drop_link, write_repository

needs_bpy = pytest.mark.skipif(
    importlib.util.find_spec("bpy") is None, reason="needs the bpy wheel (pip install 'hvg3d[blender]')"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    assert build_extension.main(["--repository", str(folder)]) == 0
    return folder


def newer(archive: Path, version: str) -> Path:
    """The same extension as another version."""
    target = archive.with_name(f"hvg3d-{version}.zip")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "blender_manifest.toml":
                data = re.sub(rb'(?m)^version = ".*"', f'version = "{version}"'.encode(), data)
            new.writestr(name, data)
    return target


@needs_bpy
def test_the_listing_is_what_blenders_own_tool_writes(built, tmp_path):
    ours = json.loads((built / "index.json").read_text())
    shutil.copy(next(built.glob("*.zip")), tmp_path)
    command = [sys.executable, str(build_extension.blender_tool()), "server-generate", "--repo-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ours == json.loads((tmp_path / "index.json").read_text())
    assert len(ours["data"]) == 1


@needs_bpy
def test_the_zip_holds_what_blenders_own_packager_would_pack(built, tmp_path):
    """Unpacked and packed again by it: names, bytes and the packager's own rules."""
    with zipfile.ZipFile(next(built.glob("*.zip"))) as archive:
        archive.extractall(tmp_path / "hvg3d")
    command = [sys.executable, str(build_extension.blender_tool()), "build", "--source-dir", str(tmp_path / "hvg3d")]
    done = subprocess.run([*command, "--output-dir", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    contents = []
    for path in (next(built.glob("*.zip")), next(tmp_path.glob("*.zip"))):
        with zipfile.ZipFile(path) as archive:
            contents.append({name: archive.read(name) for name in archive.namelist() if not name.endswith("/")})
    assert contents[0] == contents[1]


def test_the_same_sources_give_the_same_bytes(tmp_path):
    made = []
    for name in ("first", "second"):
        build_extension.main(["--repository", str(tmp_path / name)])
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert set(made[0]) == {"index.html", "index.json", f"hvg3d-{build_extension.version()}.zip"}
    assert made[0] == made[1]


def test_only_the_newest_version_is_listed(built, tmp_path):
    """Numbers as numbers, a release after its candidates; the older zips stay."""
    archive = Path(shutil.copy(next(built.glob("*.zip")), tmp_path))
    for version in ("0.9.0", "0.10.0-rc.2", "0.10.0", "0.10.0-rc.10"):
        newer(archive, version)
    entries = write_repository(tmp_path)
    assert [entry["version"] for entry in entries] == ["0.10.0"]
    assert len(list(tmp_path.glob("*.zip"))) == 5
    (tmp_path / "hvg3d-0.10.0.zip").unlink()
    assert write_repository(tmp_path)[0]["version"] == "0.10.0-rc.10"


def test_the_page_has_a_link_to_drag_and_says_how_to_subscribe(built):
    page = (built / "index.html").read_text()
    entry = json.loads((built / "index.json").read_text())["data"][0]
    link = re.search(r'class="drop" href="([^"]+)"', page).group(1).replace("&amp;", "&")
    assert link == drop_link(entry)
    path, _, query = link.partition("?")
    assert (built / path).is_file()
    assert urllib.parse.parse_qs(query) == {"repository": ["./index.json"], "blender_version_min": ["4.5.0"]}
    assert "Add Remote Repository" in page
    for reason in entry["permissions"].values():
        assert reason in page


def test_what_is_no_extension_is_named(tmp_path):
    with pytest.raises(RepositoryError, match="no extension's zip"):
        write_repository(tmp_path)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(RepositoryError, match=r"other\.zip: not an extension"):
        write_repository(tmp_path)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass


@needs_bpy
@pytest.mark.parametrize("kind", ["http", pytest.param("file", marks=pytest.mark.slow)])
def test_blender_subscribes_installs_and_updates(built, tmp_path, kind):
    """drive_repository.py in an empty Blender: add, sync, install, then a newer version is published, sync, upgrade."""
    repository = tmp_path / "öffentlich"
    repository.mkdir()
    archive = Path(shutil.copy(next(built.glob("*.zip")), repository))
    write_repository(repository)
    server = None
    url = (repository / "index.json").as_uri()
    if kind == "http":
        handler = functools.partial(_Quiet, directory=str(repository))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/index.json"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["BLENDER_USER_RESOURCES"] = str(tmp_path / "blender")
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("drive_repository.py")), url, str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while process.poll() is None and not (tmp_path / "installed").is_file():
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        if process.poll() is None:
            newer(archive, "99.1.0")
            write_repository(repository)
            (tmp_path / "newer").touch()
        told, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        if server is not None:
            server.shutdown()
    assert process.returncode == 0, told[-4000:]
    assert "REPOSITORY" in told
    assert (tmp_path / "installed").read_text() == build_extension.version()
    assert (tmp_path / "updated").read_text() == "99.1.0"
