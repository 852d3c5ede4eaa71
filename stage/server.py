"""The server of the stage: its start and its end."""

import argparse
import logging
import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from stage.events import Hub

GRACEFUL = 2  # seconds that open requests have at the end
CONNECTIONS = 512  # at a time; more are refused
BACKLOG = 128


class Server(uvicorn.Server):
    """A server whose open pages end with it."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        """Serve a configuration; `hub` holds the event streams."""
        super().__init__(config)
        self._hub = hub

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and let events go to the loop of this server."""
        self._hub.open()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the streams first, which would be waited for."""
        self.end()
        super().handle_exit(sig, frame)

    def end(self) -> None:
        """End the server; may be called from any thread."""
        self._hub.close()
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        OSError: the address is taken or not one of this machine; the message says what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        raise OSError(
            f"--stage_host {host} --stage_port {port}: {reason}; another stage may run there, or this machine has no "
            "such address: choose others"
        ) from error
    return listener


def server_of(app: ASGIApp, hub: Hub, options: argparse.Namespace) -> Server:
    """Return the server of an app; nothing of a request is logged."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        http="h11",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACEFUL,
        ssl_certfile=options.certfile,
        ssl_keyfile=options.keyfile,
    )
    return Server(config, hub)
