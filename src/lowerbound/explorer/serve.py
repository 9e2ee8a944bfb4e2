"""From a run folder to a page that is served on this machine alone."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from typing import TYPE_CHECKING

from lowerbound.core.errors import ArgumentError, explain
from lowerbound.explorer.latents import Latents

if TYPE_CHECKING:
    import uvicorn

__all__ = ["PORT", "explore", "server"]

PORT = 8642
_HOST = "127.0.0.1"


def explore(
    run: str | os.PathLike[str],
    *,
    source: str | None = None,
    limit: int = 10_000,
    port: int = PORT,
    device: str = "auto",
    browser: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve a page that explores a run's latents, until it is interrupted.

    Args:
        run: The run folder.
        source: Other data than the run's own test rows.
        limit: How many rows to encode at most.
        port: Where to listen; 0 for any free port.
        device: Where to compute.
        browser: Whether to open the page.
        say: Is told the address when the page is ready.

    Raises:
        ArgumentError: if the extra is not installed, or the port cannot be had.
        RunError: if the folder is no run, or its model has no encoder and decoder.
        DataError: if the data of the run are not there.
    """
    check_extra()
    with contextlib.closing(listen(port)) as listener:
        page, address = server(Latents.of_run(run, source=source, limit=limit, device=device), listener)
        say(address)
        if browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            page.run(sockets=[listener])


def server(latents: Latents, listener: socket.socket) -> tuple[uvicorn.Server, str]:
    """Return a server of the page, and the address of the page with its token.

    Args:
        latents: The encoded rows and their model.
        listener: Where it will listen.
    """
    import uvicorn

    from lowerbound.explorer.server import application

    token = secrets.token_urlsafe(32)
    config = uvicorn.Config(
        application(latents, token=token),
        log_level="warning",
        access_log=False,  # it would write the token down
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config), f"http://{_HOST}:{listener.getsockname()[1]}/?token={token}"


def listen(port: int) -> socket.socket:
    """Return a socket of this machine that listens, so that a browser may come before the server is up.

    Raises:
        ArgumentError: if the port is in use or cannot be had.
    """
    # asyncio turns Nagle's algorithm off, and its 40 ms, only where the protocol is named.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name == "posix")
        listener.bind((_HOST, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        got = f"{port} ({getattr(error, 'strerror', None) or error})"
        cure = "Choose another with --port, or --port 0 for any that is free."
        raise ArgumentError(explain("port", expected="a free port", got=got, cure=cure)) from error
    return listener


def check_extra() -> None:
    """Raise an error if the packages of the extra are not there.

    Raises:
        ArgumentError: if one of them is missing.
    """
    for package in ("starlette", "uvicorn"):
        try:
            __import__(package)
        except ImportError as error:
            cure = "Run: pip install 'lowerbound[explorer]'."
            raise ArgumentError(explain("explore", expected=package, got="no such package", cure=cure)) from error
