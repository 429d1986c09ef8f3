# SPDX-License-Identifier: Apache-2.0
"""The extension on the ``bpy`` wheel, in child processes of it, and in a real window."""
