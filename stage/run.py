"""Run a show until Ctrl-C."""

import argparse
from typing import TYPE_CHECKING

import config
from live.display import Display
from live.pipeline import Pipeline
from stage.access import Key
from stage.app import build
from stage.certificates import fingerprint, names_in, own_certificate
from stage.display import StageDisplay
from stage.network import Address, names_of
from stage.server import listen, server_of
from stage.show import Show

if TYPE_CHECKING:
    import socket

CERTIFICATES = "stage_certificate"  # folder below the one for output


def run_stage(options: argparse.Namespace, display: StageDisplay, pipeline: Pipeline) -> None:
    """Serve the pages, and paint, until the server is told to end.

    Raises:
        OSError: the address cannot be served, or a certificate cannot be read or written.
        RuntimeError: the model cannot be loaded.
    """
    address = address_of_stage(options, display)
    listener: socket.socket = listen(options.stage_host, options.stage_port)
    show = Show(options, display, pipeline)
    show.public = address.public
    key = Key()
    server = server_of(build(show, key, address), show.hub, options)
    show.on_failure = server.end
    for line in (
        f"stage: {address.url}/   screen: {address.url}/screen   operator: {address.url}/operator?key={key.text}",
        *([f"for other devices: {address.public}/"] if address.public not in ("", address.url) else []),
    ):
        display.say(line)
    try:
        pipeline.start()
        show.start()
        server.run(sockets=[listener])
    finally:
        show.close()
        listener.close()
    if show.failure:
        raise show.failure


def address_of_stage(options: argparse.Namespace, display: Display) -> Address:
    """Return where the stage is reached; make its certificate, if asked to."""
    names = names_of(options.stage_host)
    if options.https:
        options.certfile, options.keyfile = own_certificate(config.ROOT_DIR / CERTIFICATES, names)
        display.say(f"certificate: {options.certfile}; browsers warn of it once")
        display.say(f"its SHA-256 fingerprint: {fingerprint(options.certfile)}")
    elif options.certfile:
        named = [name for name in names_in(options.certfile) if not name.startswith("*.")]
        names = tuple(dict.fromkeys([*named, *names]))
    scheme = "https" if options.certfile else "http"
    return Address(scheme, options.stage_host, options.stage_port, names)
