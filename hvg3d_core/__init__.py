# SPDX-License-Identifier: Apache-2.0
"""HVG-3D: video of hands and objects, conditioned on native 3D. Importing this package imports nothing heavy."""

__version__ = "0.1.0"
