"""What a server can be told: its options, each of which is also an environment variable."""

from __future__ import annotations

import argparse
import os
import socket
from dataclasses import fields
from pathlib import Path
from typing import Any

from .engine import Limits

_LIMITS = {
    "max_new_tokens": "longest answer a visitor may ask for, in tokens",
    "max_prompt_tokens": "longest conversation, pictures included, in tokens",
    "max_block_size": "largest block, in tokens",
    "max_picture_pixels": "largest picture, width x height",
    "open_runs": "runs that take turns on the model",
    "waiting_runs": "runs that may wait behind them",
}


def parse_options(description: str, model: Path, arguments: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line; where one is absent, its environment variable; else the default.

    Args:
        description: what `--help` says first.
        model: folder of the model that is served by default.
        arguments: the command line, `sys.argv` by default.
    """
    parser = argparse.ArgumentParser(
        prog="python app.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def option(name: str, default: Any, text: str, kind: type = str, group: Any = parser) -> None:
        variable = "DVL_" + name.upper()
        shown = "" if default is None else f"; default {default}"
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=os.environ.get(variable) or default,
            metavar="N" if kind is int else name.upper(),
            help=f"{text} ({variable}{shown})",
        )

    option("model", model, "checkpoint folder, or repository on the Hugging Face Hub")
    option("parent", None, "autoregressive model to race against; that of the bundled model by default")
    option("device", "auto", "auto, cpu, cuda, cuda:N, mps, or balanced over all GPUs")
    option("dtype", "auto", "auto, float32, bfloat16 or float16")
    option("host", None, "address to listen on, 0.0.0.0 for all; GRADIO_SERVER_NAME is honoured too")
    option("port", None, "port, the first free one from 7860 by default; GRADIO_SERVER_PORT is honoured too", int)
    parser.add_argument(
        "--share",
        action="store_true",
        default=os.environ.get("DVL_SHARE") == "1",
        help="make a public link through gradio.live (DVL_SHARE=1)",
    )
    limits = parser.add_argument_group("limits")
    for field in fields(Limits):
        option(field.name, field.default, _LIMITS[field.name], int, limits)
    return parser.parse_args(arguments)


def limits_of(options: argparse.Namespace) -> Limits:
    """The limits among the options. Raises ValueError naming the one that can't be."""
    return Limits(**{field.name: getattr(options, field.name) for field in fields(Limits)})


def check_address(options: argparse.Namespace) -> None:
    """Refuse a host or a port that can't be listened on, before anything is loaded. Raises ValueError."""
    host, port = options.host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1", options.port or 0
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be from 1 to 65535; got {port}.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        where = f"port {port} of {host}" if port else f"host {host}"
        other = "--port" if port else "--host"
        raise ValueError(f"{where} can't be listened on ({error.strerror}): give another with {other}.") from error
