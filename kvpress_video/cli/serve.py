"""`kvpress-video serve`: a server of chat completions and video sessions."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UnknownNameError
from .common import DONE, load_model, model_options, quiet, whole_number
from .names import check_methods, check_model
from .parsers import Commands, add_command

if TYPE_CHECKING:
    from ..serving.server.settings import ServerSettings

_LARGEST_PORT = 65535


def add(commands: Commands) -> None:
    """Add the command."""
    serve = add_command(
        commands,
        "serve",
        help="serve a model over HTTP: OpenAI's chat completions, and video sessions",
        description="Serve a model over HTTP, with its cache compressed: OpenAI's chat completions, and sessions for "
        "live video. Without a model, the bundled one is served.",
        examples=("--budget 96", "Qwen/Qwen2.5-VL-7B-Instruct --budget 6144 --memory 20GiB"),
        note="FastAPI and uvicorn come with pip install 'kvpress-video[serve]': see docs/serving.md.",
    )
    serve.set_defaults(run=_serve)
    model_options(serve, positional=True)
    serve.add_argument("--name", help="name of the model for clients (default: that of its folder)")
    serve.add_argument("--method", default="infinipot-v", help="name or name:setting=value,… (default: %(default)s)")
    serve.add_argument("--budget", default="6144", help="6144 (visual entries) or 256MiB (default: %(default)s)")
    serve.add_argument(
        "--chunk",
        type=whole_number(1),
        metavar="TOKENS",
        help="visual tokens of a completion's prompt to prefill at a time (default: a third of the budget)",
    )
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; any but loopback needs keys (default: %(default)s)"
    )
    serve.add_argument("--port", type=whole_number(0), default=8000, help="port to listen on (default: %(default)s)")
    serve.add_argument(
        "--memory",
        metavar="SIZE",
        help="memory for weights, caches and media, such as 20GiB (default: weights and half of the free memory)",
    )
    serve.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="file with the API keys of clients, one per line"
    )
    serve.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="host with a private address to fetch media from; repeatable",
    )
    serve.add_argument(
        "--allow-folder",
        action="append",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="folder whose files may be read by path; repeatable",
    )
    serve.add_argument(
        "--allow-source",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="host to read live streams (RTSP, HLS) of sessions from; repeatable",
    )
    serve.add_argument(
        "--sessions", type=Path, metavar="FOLDER", help="folder to save sessions in, for the next server that uses it"
    )
    serve.add_argument(
        "--save-every",
        type=whole_number(1),
        metavar="SECONDS",
        help="seconds between saves of changed sessions; a crash loses later frames and turns (default: 30)",
    )
    serve.add_argument(
        "--ray", action="store_true", help="serve with replicas on Ray Serve, in a running cluster or a new one"
    )
    serve.add_argument(
        "--replicas", metavar="N", help="replicas on Ray, or limits to scale between, such as 1:4 (default: 2)"
    )
    serve.add_argument(
        "--sessions-per-replica",
        type=whole_number(1),
        metavar="N",
        help="sessions in memory that scaling aims at (default: 16)",
    )
    serve.add_argument(
        "--idle",
        type=whole_number(1),
        default=60,
        metavar="SECONDS",
        help="seconds after which an unused session is detached to disk (default: %(default)s)",
    )
    serve.add_argument(
        "--queue",
        type=whole_number(0),
        default=64,
        metavar="N",
        help="maximum number of waiting requests (default: %(default)s)",
    )
    serve.add_argument(
        "--batch",
        type=whole_number(1),
        default=8,
        metavar="N",
        help="maximum number of answers decoded together (default: %(default)s)",
    )
    serve.add_argument(
        "--max-tokens",
        type=whole_number(1),
        default=1024,
        metavar="N",
        help="maximum length of an answer (default: %(default)s)",
    )
    serve.add_argument(
        "--session-text",
        type=whole_number(64),
        default=2048,
        metavar="N",
        help="maximum number of text entries of a session (default: %(default)s)",
    )


def _serve(options: argparse.Namespace) -> int:
    check_methods(options.method)
    check_model(options.model)
    quiet()
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UnknownNameError(
            "Serving needs FastAPI, uvicorn and prometheus-client: pip install 'kvpress-video[serve]'."
        ) from error
    from ..budget import Budget
    from ..serving.server.addresses import HostRules
    from ..serving.server.listening import check_address
    from ..serving.server.settings import ServerSettings, read_keys
    from ..utils.model_names import BUNDLED

    if options.port > _LARGEST_PORT:
        raise UnknownNameError(f"Ports end at {_LARGEST_PORT}, not at {options.port}.")
    if options.save_every is not None and options.sessions is None and not options.ray:
        raise UnknownNameError("--save-every needs a folder to save to: --sessions FOLDER.")
    memory = None if options.memory is None else Budget.parse(options.memory)
    if memory is not None and memory.unit != "bytes":
        raise UnknownNameError(f"--memory is a size such as 20GiB, not {options.memory!r}.")
    settings = ServerSettings(
        method=options.method,
        budget=options.budget,
        chunk=options.chunk,
        host=options.host,
        port=options.port,
        keys=read_keys(options.api_key_file) if options.api_key_file else (),
        memory=None if memory is None else int(memory.amount),
        hosts=HostRules(frozenset(host.lower() for host in options.allow_host)),
        folders=tuple(options.allow_folder),
        sources=frozenset(host.lower() for host in options.allow_source),
        sessions=options.sessions,
        queue=options.queue,
        batch=options.batch,
        save_every=options.save_every or ServerSettings.save_every,
        idle=options.idle,
        session_text=options.session_text,
        max_tokens=options.max_tokens,
    )
    check_address(options.host, options.port)
    name = options.name or Path(options.model or BUNDLED).name
    if options.ray:
        _serve_on_ray(options, name, settings)
        return DONE
    if options.replicas or options.sessions_per_replica:
        raise UnknownNameError("--replicas and --sessions-per-replica need Ray: add --ray.")
    from ..serving.server.listening import listen
    from ..serving.server.state import Server

    listen(Server(name, *load_model(options), settings))
    return DONE


def _serve_on_ray(options: argparse.Namespace, name: str, settings: ServerSettings) -> None:
    try:
        import aiohttp  # noqa: F401
        import ray.serve  # noqa: F401
    except ImportError as error:
        raise UnknownNameError("--ray needs Ray Serve: pip install 'kvpress-video[serve-ray]'.") from error
    from ..serving.cluster.on_ray import serve_on_ray
    from ..serving.cluster.process import Job
    from ..serving.cluster.scaling import Scale

    scale = Scale.parse(options.replicas or "2", options.sessions_per_replica)
    most = settings.most_sessions * scale.most
    chosen = {each: getattr(options, each) for each in ("model", "device", "dtype", "attention")}
    load = partial(load_model, argparse.Namespace(**chosen))
    job = Job(load, name, replace(settings, most_sessions=most))
    serve_on_ray(job, scale, gpus=options.device in (None, "cuda"))
