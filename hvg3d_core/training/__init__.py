# SPDX-License-Identifier: Apache-2.0
"""Training of the HVG-3D network: data, losses, and the stages vae, cache, decoder, base, control and pack."""
