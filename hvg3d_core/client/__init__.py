# SPDX-License-Identifier: Apache-2.0
"""A typed client of the HVG-3D server.

from hvg3d_core.client import Client, GenerationRequest

with Client.at_home() as client:                      # the server on this machine
    clip = client.upload("shot.clip.safetensors")     # goes on where it broke off
    job = client.submit(GenerationRequest(clip, seed=3), label="shot 3")
    for job in client.follow(job.id):                 # live, over restarts of the server
        print(job.state, job.progress)
    client.download(job.id, "video.mp4", "real.mp4")
"""

from .client import Client
from .errors import ClientError, JobFailed, NotFound, Refused, Unauthorized, Unreachable
from .home import default_home
from .types import (
    FINISHED,
    Attempt,
    Error,
    Event,
    GenerationRequest,
    Health,
    Job,
    JobPage,
    Model,
    Progress,
    Result,
    Worker,
)

__all__ = [
    "FINISHED",
    "Attempt",
    "Client",
    "ClientError",
    "Error",
    "Event",
    "GenerationRequest",
    "Health",
    "Job",
    "JobFailed",
    "JobPage",
    "Model",
    "NotFound",
    "Progress",
    "Refused",
    "Result",
    "Unauthorized",
    "Unreachable",
    "Worker",
    "default_home",
]
