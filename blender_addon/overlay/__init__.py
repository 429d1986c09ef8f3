# SPDX-License-Identifier: GPL-3.0-or-later
"""What the viewport shows of the points that will be sent. ``distance`` and ``contact`` need numpy only."""
