# SPDX-License-Identifier: GPL-3.0-or-later
"""A managed installation of the server: an environment of its own, filled by its own pip. Runs in a thread.

Every step looks at what is there already, so that an installation that was cancelled, killed or cut off goes on where
it was. Blender's own Python is at most asked to make the environment; nothing is ever installed into it.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from .environment import Installed, Managed, normal
from .failures import CareError
from .local import folder_error
from .pip import Cancelled, PipProgress, explain_pip, run_module, user_has_places
from .pythons import find_python, probe, window_options
from .wheel import Wheel, open_wheel

EXTRAS = "network,server"
_TORCH = "torch>=2.6"
_TORCH_CPU = "torch==2.13.0+cpu"  # the build that the tests run with
_ROOM = {"CPU": 3 * 10**9, "GPU": 10 * 10**9}  # bytes; see docs/blender.md for what it takes in the end
_LITTLE_ROOM = 30 * 10**6
_TRY = """
import importlib
for name in ("torch", "diffusers", "transformers", "av", "fastapi", "server.__main__", "hvg3d_core.generate"):
    importlib.import_module(name)
import torch
print("torch", torch.__version__)
"""


@dataclass(frozen=True)
class Order:
    """What to install, and from where.

    ``wheel`` None: ``version`` from the index. ``torch``: AUTO, CPU or GPU. ``index``: another place to look for
    packages; ``packages``: a folder with all of them, for a computer that is not online (then no index is asked).
    """

    managed: Managed
    version: str
    wheel: Path | None = None
    python: Path | None = None
    own_python: Path | None = None
    torch: str = "AUTO"
    index: str = ""
    packages: Path | None = None
    room: int | None = None
    """Bytes that must be free; None: what such an installation takes."""


@dataclass(frozen=True)
class InstallState:
    """``outcome`` is empty while it runs, then done, failed or cancelled."""

    text: str
    fraction: float = 0.0
    outcome: str = ""
    message: str = ""
    remedy: str = ""
    code: str = ""
    log: tuple[str, ...] = ()


class Installation:
    """Runs in its own thread from :meth:`start` on; ``states`` receives what it has come to."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.states: queue.Queue[InstallState] = queue.Queue()
        self._state = InstallState("Preparing")
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hvg3d install", daemon=True)
        self._managed = order.managed
        self._base = 0.0
        self._share = 0.0

    def start(self) -> None:
        self._thread.start()

    def cancel(self) -> None:
        self._cancelled.set()

    def join(self, seconds: float | None = None) -> None:
        self._thread.join(seconds)

    # everything below runs in the thread

    def _run(self) -> None:
        goes_on = "Start it again and it goes on where it stopped"
        try:
            with contextlib.ExitStack() as held:
                self._install(held)
        except Cancelled:
            self._show(outcome="cancelled", message="The installation was cancelled", remedy=goes_on)
        except CareError as error:
            self._fail(error)
        except OSError as error:
            self._fail(folder_error(self._managed.folder, error))
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self._fail(CareError("failed", text, "This is a fault of the add-on; please report it"))

    def _fail(self, error: CareError) -> None:
        self._show(
            outcome="failed", message=error.message, remedy=error.remedy, code=error.code, log=tuple(error.log[-12:])
        )

    def _show(self, **changes: object) -> None:
        state = replace(self._state, **changes)  # type: ignore[arg-type]
        if state != self._state:
            self._state = state
            self.states.put(state)

    def _step(self, text: str, share: float) -> None:
        """The next part of the work begins, of a ``share`` of the whole."""
        if self._cancelled.is_set():
            raise Cancelled
        self._base += self._share
        self._share = share
        self._show(text=text, fraction=self._base)

    def _within(self, fraction: float, text: str = "") -> None:
        """Only forward: a second run of pip begins from its own zero."""
        whole = max(self._state.fraction, self._base + self._share * min(1.0, fraction))
        if whole - self._state.fraction >= 0.002 or (text and text != self._state.text):
            self._show(fraction=whole, text=text or self._state.text)

    def _install(self, held: contextlib.ExitStack) -> None:
        order, managed = self.order, self._managed
        self._step("Preparing", 0.01)
        wheel = open_wheel(order.wheel) if order.wheel is not None else None
        managed.claim()
        held.enter_context(managed.lock())
        self._check_room()
        before = managed.state().installed
        managed.unfinish()
        managed.cache.mkdir(exist_ok=True)
        managed.log.write_text("", encoding="utf-8")
        self._make_environment()
        for name in managed.mend():
            self._note(f"{name} was there in part, and is installed again")
        self._renew_pip()
        self._install_torch()
        if wheel is not None and before is not None and before.wheel_sha256 != wheel.sha256:
            self._pip("Removing the old version", 0.01, "uninstall", "-y", "hvg3d")
        else:
            self._step("Looking at what is there", 0.01)
        self._install_server(wheel)
        torch = self._try_it()
        self._step("Tidying up", 0.02)
        shutil.rmtree(managed.cache, ignore_errors=True)
        version = managed.packages().get("hvg3d", order.version)
        made_with = probe(managed.python, ())
        managed.finish(Installed(version, made_with.base, torch, wheel.sha256 if wheel else ""))
        self._show(text="Installed", fraction=1.0, outcome="done", message=f"Version {version} is installed")

    def _note(self, text: str) -> None:
        with open(self._managed.log, "a", encoding="utf-8") as file:
            file.write(text + "\n")

    def _check_room(self) -> None:
        need = self.order.room
        if need is None:
            need = _ROOM["GPU" if self._wants_gpu() else "CPU"]
            need = max(need // 4, need - self._managed.size())  # part of it may be there already
        free = shutil.disk_usage(self._managed.folder).free
        if free < need:
            raise CareError(
                "disk_full",
                f"The server needs {need / 1e9:.1f} GB, and the disk of {self._managed.folder} has {free / 1e9:.1f}",
                "Free some space, then go on",
            )

    def _wants_gpu(self) -> bool:
        return self.order.torch == "GPU" or (self.order.torch == "AUTO" and has_nvidia_gpu())

    def _make_environment(self) -> None:
        self._step("Making an environment", 0.05)
        managed = self._managed
        if managed.python.exists():
            told = probe(managed.python, ("pip", "ensurepip"))
            right = self.order.python is None or self._made_with(told.base)
            if not told.problem and not told.missing and right:
                return
            self._note(f"the environment is made anew: {told.problem or told.missing or 'another Python was chosen'}")
        found = find_python(self.order.python, self.order.own_python)
        if found.problem:
            remedy = "Install Python 3.11 to 3.13, and choose it in the add-on's preferences"
            raise CareError("no_python", found.problem, remedy)
        self._note(f"made with {found.python}, Python {found.version_text}")
        if managed.env.exists():
            shutil.rmtree(managed.env)
        code, lines = run_module(found.executable, ("venv", str(managed.env)), managed.log, self._cancelled)
        if code or not managed.python.exists():
            reason = self._reason(lines, code)
            if reason.code == "pip":
                message = f"{found.python} cannot make an environment: {(lines or ['it gave no reason'])[-1][:200]}"
                reason = CareError("no_python", message, "Choose another Python in the add-on's preferences", lines)
            raise reason

    def _made_with(self, base: str) -> bool:
        wanted = find_python(self.order.python)
        return not wanted.problem and bool(base) and Path(wanted.base) == Path(base)

    def _places(self) -> list[str]:
        if self.order.packages is not None:
            return ["--no-index", "--find-links", str(self.order.packages)]
        return ["--extra-index-url", self.order.index] if self.order.index else []

    def _pip(self, text: str, share: float, *arguments: str, expected: int = 0, may_fail: bool = False) -> bool:
        self._step(text, share)
        managed = self._managed
        progress = PipProgress(expected)
        before = 0

        def on_line(line: str) -> None:
            nonlocal before
            was = len(progress.installing)
            progress.feed(line)
            if progress.installing and not was:
                before = len(managed.packages())
            self._within(progress.fraction, progress.text and f"{text}: {progress.text}")

        def on_pause() -> None:
            if progress.installing:
                progress.unpacked = len(managed.packages()) - before
                done = min(max(progress.unpacked, 0), len(progress.installing))
                self._within(progress.fraction, f"{text}: unpacked {done} of {len(progress.installing)}")

        options: list[str] = []
        if arguments[0] == "install":
            options = ["--no-input", "--only-binary", ":all:", "--no-warn-script-location", "--cache-dir"]
            options += [str(managed.cache), *self._newer_options(), *self._places()]
        code, lines = run_module(
            managed.python,
            ("pip", arguments[0], *options, *arguments[1:]),
            managed.log,
            self._cancelled,
            on_line,
            on_pause,
        )
        if code and not may_fail:
            raise self._reason(lines, code)
        return code == 0

    def _reason(self, lines: list[str], code: int) -> CareError:
        """What it says, or, where it says nothing of use, what the disk says."""
        reason = explain_pip(lines, code)
        free = shutil.disk_usage(self._managed.folder).free
        if reason.code != "pip" or free > _LITTLE_ROOM:
            return reason
        text = f"The disk of {self._managed.folder} is full: {free // 10**6} MB are free"
        return CareError("disk_full", text, "Free some space, then go on", lines[-12:])

    def _newer_options(self) -> list[str]:
        """What the pip of the environment understands."""
        version = [int(part) for part in self._managed.packages().get("pip", "0").split(".")[:2] if part.isdecimal()]
        options = ["--progress-bar", "raw" if version >= [24, 1] else "off"]
        return [*options, "--resume-retries", "10"] if version >= [25, 1] else options

    def _renew_pip(self) -> None:
        """Older ones start a broken download from its beginning, and say nothing of how far it is."""
        self._pip("Renewing pip", 0.03, "install", "--upgrade", "pip>=25.1", may_fail=True)

    def _install_torch(self) -> None:
        """The registry's own build is for NVIDIA cards on Linux, and for the CPU elsewhere."""
        text, managed = "Installing PyTorch", self._managed
        gpu = self._wants_gpu()
        fits = sys.platform == "darwin" or gpu == (sys.platform == "linux")
        if "torch" in managed.packages():
            self._step(text, 0.42)
            return
        if self.order.packages is not None or self.order.index:
            self._pip(text, 0.42, "install", _TORCH)  # the user knows where it is
            return
        # Perhaps somebody has a CPU build there; no other requirement can say that it is to be one.
        places = not gpu and not fits and user_has_places(told=self._pip_config())
        if places and self._pip(text, 0.1, "install", _TORCH_CPU, may_fail=True):
            self._step(text, 0.32)
            return
        if not fits:
            if self._pip_with_uv(text, gpu):
                return
            self._note("the build of PyTorch that fits best could not be had: the usual one is installed")
        self._pip(text, 0.3, "install", _TORCH)

    def _pip_with_uv(self, text: str, gpu: bool) -> bool:
        """uv knows where the builds for the CPU and for each driver are published."""
        managed = self._managed
        if not self._pip(text, 0.02, "install", "uv", may_fail=True):
            return False
        self._step(text, 0.1)
        where = ("--python", str(managed.python), f"--torch-backend={'auto' if gpu else 'cpu'}")
        environment = {"UV_CACHE_DIR": str(managed.cache / "uv"), "UV_NO_PROGRESS": "1"}
        command = ("uv", "pip", "install", *where, _TORCH)
        code, _ = run_module(managed.python, command, managed.log, self._cancelled, environment=environment)
        return code == 0

    def _pip_config(self) -> str:
        _, lines = run_module(self._managed.python, ("pip", "config", "list"), self._managed.log, self._cancelled)
        return "\n".join(lines)

    def _install_server(self, wheel: Wheel | None) -> None:
        text = "Installing the server"
        what = f"{wheel.path}[{EXTRAS}]" if wheel else f"hvg3d[{EXTRAS}]=={self.order.version}"
        report = self._managed.cache / "report.json"
        arguments = ("install", "--dry-run", "--report", str(report), what)
        self._pip("Finding out what is needed", 0.08, *arguments)
        planned = json.loads(report.read_text("utf-8"))["install"]
        pins = [f"{item['metadata']['name']}=={item['metadata']['version']}" for item in planned]
        others = [pin for pin in pins if normal(pin.partition("==")[0]) != "hvg3d"]
        if others:
            self._pip(text, 0.25, "install", "--no-deps", *others, expected=len(others))
        else:
            self._step(text, 0.25)
        # Last: with it there, everything that it needs is there.
        if len(others) < len(pins):
            own = str(wheel.path) if wheel else next(pin for pin in pins if pin not in others)
            self._pip(text, 0.03, "install", "--no-deps", own, expected=1)

    def _try_it(self) -> str:
        """Imports everything once, which finds libraries that do not fit this computer. The version of torch."""
        self._step("Trying it out", 0.1)
        told = probe(self._managed.python)
        if told.problem or told.missing:
            missing = f"after the installation {', '.join(told.missing)} is missing"
            remedy = "See whether pip's own settings (pip config list) put packages elsewhere; then go on"
            raise CareError("incomplete", told.problem or f"The server is not whole: {missing}", remedy)
        script = self._managed.cache / "try_it.py"
        script.write_text(_TRY, encoding="utf-8")
        code, lines = run_module(self._managed.python, (str(script),), self._managed.log, self._cancelled)
        if code:
            said = (lines or ["it gave no reason"])[-1][:200]
            remedy = "Choose another build of PyTorch or another Python, remove the installation, and install again"
            raise CareError("broken", f"The server is installed, but cannot run here: {said}", remedy, lines)
        return next((line.split()[1] for line in lines if line.startswith("torch ")), "")


def has_nvidia_gpu() -> bool:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run([tool, "-L"], capture_output=True, timeout=20, **window_options()).returncode == 0
    return False


def start_removal(managed: Managed, answer: Callable[[CareError | None], None]) -> None:
    """In a thread: tens of thousands of files."""

    def remove() -> None:
        try:
            if managed.is_ours():
                with managed.lock():
                    managed.remove()
            answer(None)
        except CareError as error:
            answer(error)
        except OSError as error:
            answer(folder_error(managed.folder, error))

    threading.Thread(target=remove, name="hvg3d removal", daemon=True).start()
