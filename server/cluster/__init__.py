# SPDX-License-Identifier: Apache-2.0
"""Workers on the nodes of a Ray cluster (``--ray ADDRESS``).

``runner`` is what the supervisor sees: it keeps one process of its own, ``driver``, that belongs to the cluster,
because Ray ends every process that has lost the head of its cluster, and the server is not to end with it. ``layout``
decides which node gets how many workers. ``actor`` is what runs on a node: it has a worker process beside it, gives it
clips and commands, and hands out what it says and writes. Only ``driver`` imports ray.
"""
