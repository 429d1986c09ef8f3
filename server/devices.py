# SPDX-License-Identifier: Apache-2.0
"""The GPUs as the driver sees them, and whether the installed torch can use them. Standard library only.

torch is asked in a process of its own: importing it takes seconds, and a broken one may take its process along.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_QUERY = "index,name,driver_version,memory.total,memory.free,compute_cap"
_ASK_TORCH = """
import json, sys
said = {}
try:
    import torch
    said = {"version": torch.__version__, "cuda": torch.version.cuda, "available": torch.cuda.is_available()}
    if torch.version.cuda and not said["available"]:
        try:
            torch.cuda.init()
        except Exception as error:
            said["reason"] = str(error).splitlines()[0]
    if said["available"]:
        said["architectures"] = torch.cuda.get_arch_list()
        said["works"] = []
        for n in range(torch.cuda.device_count()):
            try:
                said["works"].append(float(torch.ones(8, device=n).sum()) == 8.0)
            except Exception as error:
                said["works"].append(str(error).splitlines()[0])
    for name in ("diffusers", "transformers", "av"):
        try:
            said[name] = __import__(name).__version__
        except Exception as error:
            said[name + "_error"] = f"{type(error).__name__}: {error}".splitlines()[0]
except Exception as error:
    said["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps(said))
"""


@dataclass(frozen=True)
class Finding:
    """``level``: ok, warning (it runs, but ...), problem (it will not)."""

    level: str
    about: str
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Gpu:
    index: int
    name: str
    driver: str
    total_mib: int
    free_mib: int
    capability: str


def parse_gpus(text: str) -> list[Gpu]:
    """What ``nvidia-smi --query-gpu=... --format=csv,noheader,nounits`` prints. Unknown numbers ([N/A]) become 0."""
    gpus = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 6 and parts[0].isdecimal():
            numbers = [int(part) if part.isdecimal() else 0 for part in parts[3:5]]
            gpus.append(Gpu(int(parts[0]), parts[1], parts[2], numbers[0], numbers[1], parts[5]))
    return gpus


def ask_driver(program: str = "nvidia-smi") -> tuple[list[Gpu], Finding | None]:
    """The GPUs, or why there are none."""
    command = [program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return [], Finding(
            "warning",
            "GPU",
            "no NVIDIA driver is installed (there is no nvidia-smi): everything runs on the CPU",
            "the nano does; for larger models install a GPU with its driver",
        )
    except (OSError, subprocess.SubprocessError) as error:
        return [], Finding("problem", "GPU", f"nvidia-smi does not answer ({error})", "restart the machine")
    gpus = parse_gpus(done.stdout)
    if done.returncode or not gpus:
        said = (done.stderr or done.stdout).strip().splitlines()
        return [], Finding(
            "problem",
            "GPU",
            f"the NVIDIA driver does not work: {said[0] if said else f'nvidia-smi ended with {done.returncode}'}",
            "restart the machine; if that does not help, install the driver again, for the kernel that runs",
        )
    return gpus, None


def ask_torch(python: str = sys.executable) -> dict[str, Any]:
    """What the installed torch says of itself: see the script."""
    try:
        done = subprocess.run([python, "-c", _ASK_TORCH], capture_output=True, text=True, timeout=300, check=False)
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError) as error:
        return {"error": str(error)}
    except (ValueError, IndexError):
        tail = done.stderr.strip().splitlines()
        return {"error": f"it ended with {done.returncode}: {tail[-1] if tail else 'no reason given'}"}


def judge(gpus: Sequence[Gpu], torch: dict[str, Any]) -> list[Finding]:
    """Findings from what driver and torch said."""
    install = "install what generation needs: pip install 'hvg3d[network,server]'"
    if "error" in torch:
        return [Finding("problem", "torch", f"torch cannot be imported: {torch['error']}", install)]
    findings = [Finding("ok", "torch", f"torch {torch['version']}")]
    for name in ("diffusers", "transformers", "av"):
        if f"{name}_error" in torch:
            findings.append(Finding("problem", name, f"it cannot be imported: {torch[f'{name}_error']}", install))
    if not gpus:
        return findings
    driver = gpus[0].driver
    if not torch.get("cuda"):
        return [
            *findings,
            Finding(
                "problem",
                "GPU",
                f"there is a GPU ({gpus[0].name}), but this torch is built for the CPU only",
                "install torch's CUDA build: see pytorch.org/get-started",
            ),
        ]
    if not torch["available"]:
        return [
            *findings,
            Finding(
                "problem",
                "GPU",
                f"torch is built for CUDA {torch['cuda']} and cannot use the driver {driver}"
                + (f": {torch['reason']}" if torch.get("reason") else ""),
                f"install a driver for CUDA {torch['cuda']} or later, or a torch built for an older CUDA",
            ),
        ]
    for gpu, works in zip(gpus, torch.get("works", []), strict=False):
        about = f"GPU {gpu.index}"
        if works is not True:
            compiled = ", ".join(torch.get("architectures", []))
            findings.append(
                Finding(
                    "problem",
                    about,
                    f"{gpu.name} (compute capability {gpu.capability}) does not compute: {works}",
                    f"this torch is built for {compiled}: install one that is built for this GPU",
                )
            )
            continue
        text = f"{gpu.name}, driver {gpu.driver}, {gpu.free_mib:,} of {gpu.total_mib:,} MiB free"
        if gpu.total_mib and gpu.free_mib < 0.5 * gpu.total_mib:
            findings.append(
                Finding("warning", about, text, "other programs use more than half of it: nvidia-smi says which")
            )
        else:
            findings.append(Finding("ok", about, text))
    return findings
