# SPDX-License-Identifier: Apache-2.0
"""A real Blender on a virtual screen: Debian's own 5.2 in a folder, Xvfb, xdotool. Needs root on a Debian system.

Software OpenGL: correct and slow. The first set-up downloads about 700 MB and takes some minutes; it is kept in
``HVG3D_WINDOW_ROOT`` (``~/.cache/hvg3d/window``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

SIZE = (1600, 1000)
SUITE = "sid"  # the one that carries Blender 5.2
HOST_PACKAGES = ("debootstrap", "xvfb", "xdotool", "imagemagick")
# Debian's package recommends less than a window and the extension system need.
BLENDER_PACKAGES = (
    *("blender", "libgl1", "libegl1", "libgl1-mesa-dri", "libegl-mesa0"),
    *("python3-numpy", "python3-requests", "python3-cattr", "python3-zstandard"),
)
_BOUND = ("proc", "dev", "sys")


def unavailable() -> str:
    """Why this machine cannot do it; empty if it can."""
    if sys.platform != "linux" or not Path("/etc/debian_version").is_file():
        return "needs Debian"
    if os.geteuid() != 0:
        return "needs root (debootstrap and chroot)"
    if shutil.which("apt-get") is None:
        return "needs apt-get"
    return ""


class Screen:
    """Blender's root folder, the virtual screen, and Blender on it. ``project`` is seen inside as /project.

    With ``server`` also under its own path, and the program /project/python inside is the Python of these tests, with
    all it has: so that the Blender in there can start a server as it does on a usual computer.
    """

    def __init__(self, project: Path, *, server: bool = False) -> None:
        self.root = Path(os.environ.get("HVG3D_WINDOW_ROOT", Path.home() / ".cache" / "hvg3d" / "window"))
        self.project = project
        self.server = server
        self.log = project / "blender.log"
        self._processes: list[subprocess.Popen] = []
        self._display = ""
        self._mounts: list[Path] = []

    def set_up(self) -> None:
        """Install what is missing. Raises RuntimeError with the end of the log."""
        if any(shutil.which(tool) is None for tool in ("debootstrap", "Xvfb", "xdotool", "import")):
            self._run("apt-get", "update", "-q")
            self._run("apt-get", "install", "-y", "-q", *HOST_PACKAGES)
        ready = self.root / ".ready"
        if ready.is_file() and ready.read_text() == repr(BLENDER_PACKAGES):
            return
        if not (self.root / "usr" / "bin" / "apt-get").is_file():
            shutil.rmtree(self.root, ignore_errors=True)
            self.root.mkdir(parents=True)
            self._run("debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, str(self.root), _mirror())
        packages = ("apt-get", "install", "-y", "-q", "--no-install-recommends", *BLENDER_PACKAGES)
        self._run("chroot", str(self.root), *packages)
        ready.write_text(repr(BLENDER_PACKAGES))

    def __enter__(self) -> Screen:
        self.set_up()
        for name in _BOUND:
            self._mount(Path("/") / name, self.root / name)
        self._mount(self.project, self.root / "project")
        if self.server:
            self._lend_python()
        # A display number that is free, which Xvfb itself chooses and tells.
        read, write = os.pipe()
        command = ["Xvfb", "-displayfd", str(write), "-screen", "0", f"{SIZE[0]}x{SIZE[1]}x24"]
        self._processes.append(subprocess.Popen(command, pass_fds=(write,), stderr=subprocess.DEVNULL))
        os.close(write)
        with os.fdopen(read) as answer:
            self._display = f":{int(answer.readline())}"
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for folder in reversed(self._mounts):
            subprocess.run(["umount", "-l", str(folder)], check=False)

    def _lend_python(self) -> None:
        self._mount(self.project, self.root / self.project.resolve().relative_to("/"))
        outside = self.root / "outside"
        self._mount(Path("/"), outside, "--rbind")
        self._run("mount", "--make-rslave", str(outside))  # what happens to the copy does not happen to the original
        program = self.project / "python"
        program.write_text(f'#!/bin/sh\nexec chroot /outside {sys.executable} "$@"\n')
        program.chmod(0o755)

    def command(self, *arguments: str) -> str:
        """Blender without a window, in the same user folder; its output."""
        return self._run("chroot", str(self.root), "env", "HOME=/project/user", "blender", *arguments)

    def start(self, *arguments: str) -> None:
        """Blender's window, over the whole screen."""
        geometry = ("--window-geometry", "0", "0", *map(str, SIZE))
        environment = ("HOME=/project/user", f"DISPLAY={self._display}", "LIBGL_ALWAYS_SOFTWARE=1")
        with open(self.log, "ab") as log:
            command = ["chroot", str(self.root), "env", *environment, "blender", *geometry, *arguments]
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def running(self) -> bool:
        return self._processes[-1].poll() is None

    def click(self, x: int, y: int, *, holding: str = "") -> None:
        """As a hand does it: Blender ignores a button that goes down before the pointer has arrived."""
        self._xdotool("mousemove", str(x - 2), str(y))
        time.sleep(0.3)
        self._xdotool("mousemove", str(x), str(y))
        time.sleep(1.0)
        if holding:
            self._xdotool("keydown", holding)
        self._xdotool("mousedown", "1")
        time.sleep(0.2)
        self._xdotool("mouseup", "1")
        if holding:
            self._xdotool("keyup", holding)

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """In small steps, as sliders want it."""
        self._xdotool("mousemove", str(start[0] - 2), str(start[1]))
        time.sleep(0.3)
        self._xdotool("mousemove", str(start[0]), str(start[1]))
        time.sleep(1.0)
        self._xdotool("mousedown", "1")
        for step in range(1, 9):
            at = [round(a + (b - a) * step / 8) for a, b in zip(start, end, strict=True)]
            time.sleep(0.15)
            self._xdotool("mousemove", *map(str, at))
        time.sleep(0.3)
        self._xdotool("mouseup", "1")

    def key(self, name: str) -> None:
        self._xdotool("key", name)

    def picture(self, path: Path) -> Path:
        self._run("import", "-window", "root", str(path))
        return path

    def _xdotool(self, *arguments: str) -> None:
        self._run("xdotool", *arguments)

    def _mount(self, source: Path, target: Path, how: str = "--bind") -> None:
        target.mkdir(parents=True, exist_ok=True)
        self._run("mount", how, str(source), str(target))
        self._mounts.append(target)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "DISPLAY": self._display, "DEBIAN_FRONTEND": "noninteractive"}

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                f"{' '.join(command)}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}"
            )
        return done.stdout


def _mirror() -> str:
    """The package mirror that this system uses itself."""
    for path in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
        for line in path.read_text().splitlines() if path.is_file() else ():
            for word in line.split() if not line.startswith("#") else ():
                if word.startswith(("http://", "https://")):
                    return word
    return "http://deb.debian.org/debian"
