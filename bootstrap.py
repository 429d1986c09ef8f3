# SPDX-License-Identifier: Apache-2.0
"""Set up and run, with nothing but Python 3.11 to 3.13: ``python bootstrap.py demo`` or ``python bootstrap.py test``.

Makes a virtual environment in ``.venv`` beside this file, installs what the command needs, and runs it there. What is
installed already is not installed again. Standard library only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = Path(os.environ.get("HVG3D_VENV", ROOT / ".venv"))
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
TORCH = "2.13.0"
EXTRAS = {"demo": "network,server", "test": "network,server,test,lint"}
# What the evaluation's metrics are held against. They ask for torchvision, which has no build beside every build of
# torch; the tests do not need that part of them.
REFERENCES = ("lpips>=0.1.4", "piq>=0.8", "clean-fid>=0.1.35")
COMMANDS = {
    "demo": ("hvg3d_core.cli.main", "demo"),
    "test": ("pytest",),
    "lint": (),
    "serve": ("hvg3d_core.cli.main", "serve"),
    "build-extension": ("blender_addon.build_extension",),
    "run": ("hvg3d_core.cli.main",),
}
USAGE = """usage: python bootstrap.py COMMAND [ARGUMENTS]

  demo [ARGUMENTS]   the main job: a scripted grasp becomes a video (arguments go to `hvg3d demo`)
  test [ARGUMENTS]   all everyday tests, on all cores; with arguments, which go to pytest, one after the other
  lint               ruff, mypy and the check of the arrows between the rooms
  serve [ARGUMENTS]  the inference server, for the extension in Blender
  build-extension    the extension as a zip in dist/ (--repository DIR: as a repository that Blender subscribes to)
  run ARGUMENTS      any other command of hvg3d, as in `python bootstrap.py run inspect CLIP`
"""


def call(*command: str | Path, quiet: bool = False) -> int:
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run([str(part) for part in command], cwd=ROOT, stdout=output, stderr=output).returncode


def pip(*arguments: str, quiet: bool = False) -> bool:
    common = ("-m", "pip", "--disable-pip-version-check", "install", "-q")
    return call(PYTHON, *common, *arguments, quiet=quiet) == 0


def has_nvidia_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None and call("nvidia-smi", "-L", quiet=True) == 0


def install_torch() -> None:
    """The CPU build where there is no NVIDIA GPU (several GB smaller on Linux), the registry's own build elsewhere."""
    if call(PYTHON, "-c", "import torch", quiet=True) == 0:
        return
    print("installing torch ...", flush=True)
    wanted = f"torch=={TORCH}"
    if sys.platform == "linux" and not has_nvidia_gpu():
        if pip(f"{wanted}+cpu", quiet=True):
            return
        # uv knows where the CPU builds are published.
        if pip("uv", quiet=True):
            uv = (PYTHON, "-m", "uv", "pip", "install", "-q", "--python", PYTHON)
            if call(*uv, "--torch-backend=cpu", wanted, quiet=True) == 0:
                return
    if not pip(wanted) and not pip("torch>=2.6"):
        sys.exit("torch could not be installed; the reason is above. Install it into .venv by hand and try again.")


def install_bpy() -> None:
    """Blender as a module, where there is a wheel; the demo uses a shipped clip and tests are skipped elsewhere."""
    if call(PYTHON, "-c", "import bpy", quiet=True) == 0:
        return
    print("installing Blender as a Python module ...", flush=True)
    if not pip("-e", ".[blender]", quiet=True) or call(PYTHON, "-c", "import bpy", quiet=True) != 0:
        print("Blender's Python module is not to be had here (it needs Python 3.11 or 3.13, and on Linux the usual")
        print("desktop libraries such as libXi, libxkbcommon, libSM and libGL): going on without it.", flush=True)


def set_up(command: str) -> None:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        sys.exit(f"Python {sys.version.split()[0]} runs this: Python 3.11, 3.12 or 3.13 is needed.")
    stamp = VENV / f"hvg3d-{command}.stamp"
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + Path(__file__).read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    if not PYTHON.exists():
        print(f"making a virtual environment in {VENV} ...", flush=True)
        venv.create(VENV, with_pip=True)
    install_torch()
    print("installing what hvg3d needs ...", flush=True)
    if not pip("-e", f".[{EXTRAS[command]}]"):
        sys.exit("the installation failed; the reason is above. Nothing outside .venv was changed.")
    if command == "test" and not pip("--no-deps", *REFERENCES):
        print("going on without them: the tests that need them are skipped", flush=True)
    install_bpy()
    stamp.write_text(digest)


def lint() -> int:
    checks = (
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy",),
    )
    failed = [check for check in checks if call(PYTHON, "-m", *check)]
    importlinter = PYTHON.parent / ("lint-imports.exe" if os.name == "nt" else "lint-imports")
    return 1 if call(importlinter) or failed else 0


def in_parallel() -> list[str]:
    """pytest's arguments to share the files among the cores. More than four processes would want much memory."""
    workers = min(os.cpu_count() or 1, 4)
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // workers, 1)))
    return ["-n", str(workers), "--dist", "loadfile"] if workers > 1 else []


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in COMMANDS:
        print(USAGE)
        return 2
    command, rest = arguments[0], arguments[1:]
    set_up("test" if command in ("test", "lint") else "demo")
    if command == "lint":
        return lint()
    if command == "test" and not rest:
        rest = in_parallel()
    return call(PYTHON, "-m", *COMMANDS[command], *rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
