# SPDX-License-Identifier: Apache-2.0
"""The conditions run in Blender's Python: numpy, the standard library, and nothing of ours but themselves."""

import shutil
import subprocess
import sys
from pathlib import Path

import hvg3d_core.conditions

PROBE = """
import sys, sysconfig
import numpy
before = set(sys.modules)
import {name} as conditions
new = {{m.partition(".")[0] for m in set(sys.modules) - before}}
foreign = new - set(sys.stdlib_module_names) - {{"numpy", "{root}"}}
assert not foreign, foreign
ours = {{m for m in sys.modules if m.startswith("{root}.")}}
assert all(m == "{name}" or m.startswith("{name}.") for m in ours), ours
assert "torch" not in sys.modules and "PIL" not in sys.modules
for name in conditions.__all__:
    getattr(conditions, name)
"""


def test_importing_the_conditions_brings_in_numpy_and_nothing_else():
    code = PROBE.format(name="hvg3d_core.conditions", root="hvg3d_core")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(hvg3d_core.conditions.__file__).parents[2])


def test_a_copy_under_another_name_works_alone(tmp_path):
    """The built extension carries the conditions inside its own package, so nothing may ask for hvg3d_core by name."""
    source = Path(hvg3d_core.conditions.__file__).parent
    shutil.copytree(source, tmp_path / "extension" / "carried", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "extension" / "__init__.py").touch()
    code = PROBE.format(name="extension.carried", root="extension") + "assert 'hvg3d_core' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
