# SPDX-License-Identifier: Apache-2.0
"""The extension in a real window of Blender 5.2, with mouse and keyboard."""
