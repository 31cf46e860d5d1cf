"""Run a cluster on Ray Serve: replicas in the cluster of Ray, and the front in this process."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import uvicorn

from ...errors import CacheError, UnknownNameError
from ...utils.ray_connection import connected
from ..server.held_files import HeldFile
from ..server.journal import log, log_to_stderr
from ..server.listening import configuration
from ..server.session_files import SessionFiles
from .front import Front
from .process import Job
from .replica import MORE_SECONDS, NOT_STARTED, Replica
from .scaling import Scale
from .signals import ending_at_once, interrupting, noted

_HEALTH_SECONDS = 1.0
_RAY_SECONDS = 10.0
"""For Ray Serve to see that a replica has ended by itself."""
_STARTS = 2
"""Of a replica, before the command fails."""


def serve_on_ray(job: Job, scale: Scale, gpus: bool) -> None:
    """Serve until SIGINT or SIGTERM; requests in flight are finished, and sessions saved, before it returns.

    The cluster is that of `RAY_ADDRESS`, or one that runs on this machine, or else a new one, which ends with the call.

    Args:
        job: what each replica serves; its settings say where the front listens.
        scale: how many replicas there are.
        gpus: whether each has a GPU, where the cluster has any.

    Raises:
        UnknownNameError: Ray is not reachable; the cluster is too small, or has several nodes and no folder or keys to
            share; the folder's file system has no locks; or the replicas do not start.
        CacheError: another server uses the folder.
    """
    import ray

    log_to_stderr()
    with interrupting(), ExitStack() as stack:
        folder = job.settings.sessions
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kvpress-video-")))
        _prepare(folder)
        stack.callback(tidy, folder)
        with ending_at_once(stack.close):
            stack.enter_context(connected(ray, None, UnknownNameError))
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if len(nodes) > 1:
            _check_shared(job, nodes)
        resources = _resources(scale, ray.cluster_resources(), gpus)
        settings = replace(job.settings, sessions=folder.absolute(), shared=True)
        host = None if len(nodes) > 1 else "127.0.0.1"
        stack.enter_context(_deployed(replace(job, settings=settings), scale, host, resources))
        log("start", model=job.name, host=job.settings.host, port=job.settings.port, replicas=scale.least)
        with noted():
            uvicorn.Server(configuration(Front(folder, job.settings.limits.size), job.settings)).run()


def _prepare(folder: Path) -> None:
    """Remove what killed servers left unfinished in a folder, and check that its files can be locked."""
    SessionFiles(folder).close()
    file = HeldFile.take(folder / "server_front.lock")
    assert file is not None  # nobody else uses the folder
    second = HeldFile.take(folder / "server_front.lock")
    file.delete()
    if second is not None:
        second.release()
        raise UnknownNameError(f"Files in {folder} cannot be locked: keep sessions on a file system with locks.")


def tidy(folder: Path) -> None:
    """Remove what killed servers left in a folder, unless one still ends."""
    with suppress(CacheError):
        SessionFiles(folder).close()


def _check_shared(job: Job, nodes: list[dict[str, Any]]) -> None:
    if job.settings.sessions is None:
        raise UnknownNameError(
            f"The Ray cluster has {len(nodes)} nodes: give a folder that all of them share (--sessions FOLDER)."
        )
    replace(job.settings, host=nodes[0]["NodeManagerAddress"])  # needs keys


def _resources(scale: Scale, resources: dict[str, float], gpus: bool) -> dict[str, float]:
    """What Ray reserves for a replica: a GPU where there are any, or else its part of the CPUs."""
    if gpus and (found := int(resources.get("GPU", 0))):
        if scale.least > found:
            raise UnknownNameError(f"{scale.least} replicas need {scale.least} GPUs, and the cluster has {found}.")
        return {"num_cpus": 1, "num_gpus": 1}
    cpus = int(resources.get("CPU", 1))
    return {"num_cpus": cpus // scale.most or cpus / scale.most}


@contextmanager
def _deployed(job: Job, scale: Scale, host: str | None, resources: dict[str, float]) -> Iterator[None]:
    """Keep replicas for the length of the context."""
    from ray import serve

    application = f"kvpress-video-{uuid4().hex[:8]}"  # a cluster may serve several
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(http_options={"location": "NoServer"})
    many: dict[str, Any] = {"num_replicas": scale.least}
    if scale.least < scale.most:
        many = {
            "autoscaling_config": {
                "min_replicas": scale.least,
                "max_replicas": scale.most,
                "upscale_delay_s": scale.up,
                "downscale_delay_s": scale.down,
                "metrics_interval_s": 1.0,
                "look_back_period_s": 5.0,
                "policy": {"policy_function": "kvpress_video.serving.cluster.scaling:by_sessions"},
            }
        }
    deployment: Any = serve.deployment(
        Replica,
        name="server",
        ray_actor_options=resources,
        health_check_period_s=_HEALTH_SECONDS,
        graceful_shutdown_wait_loop_s=_HEALTH_SECONDS,
        graceful_shutdown_timeout_s=job.settings.grace + MORE_SECONDS + _RAY_SECONDS,
        max_constructor_retry_count=_STARTS,
        logging_config={"log_level": "ERROR", "enable_access_log": False},
        **many,
    )
    started = False
    try:
        try:
            serve.run(deployment.bind(job, float(scale.target), host), name=application, route_prefix=None)
        except RuntimeError as error:
            raise UnknownNameError(f"The replicas do not start: {_reason(application) or error}") from error
        except KeyboardInterrupt:
            log("interrupted", logging.WARNING, before="the replicas were ready")
            raise
        started = True
        yield
    finally:
        try:
            serve.delete(application, _blocking=started)
            serve.status()  # the controller has heard of it
        except TimeoutError:  # one was still starting; Ray ends it, and its server ends with it
            log("abandoned", logging.WARNING, application=application)


def _reason(application: str) -> str | None:
    """Why a server did not start, as Ray's status repeats it; None where no server was asked to."""
    from ray import serve

    found = serve.status().applications.get(application)
    messages = [deployment.message for deployment in found.deployments.values()] if found else []
    reasons: list[str] = re.findall(f"{NOT_STARTED}(.*)", "\n".join(messages))
    return reasons[-1] if reasons else None
