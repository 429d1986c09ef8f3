# SPDX-License-Identifier: Apache-2.0
"""The HVG-3D server: an HTTP queue in front of worker processes that generate videos from clips.

Nothing in this package imports torch except what a worker process reaches through :mod:`server.backend`.
"""

from hvg3d_core import __version__

__all__ = ["__version__"]
