"""An app and an address come in; the server runs until a signal ends it, within a few seconds."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Generator

import uvicorn

from lucidlm.errors import ConfigError
from lucidlm.runtime.signals import Signalled, held
from lucidlm.serve.connection import Connection
from lucidlm.serve.guards import Guard, Settings

LOOK_S = 0.1
"""How often the server looks whether a signal came."""
SEND_BYTES = 2**14
"""The system's buffer of a connection: by default it grows to megabytes of text that nobody reads."""
BACKLOG = 512
"""Connections that the system keeps waiting: more than the clients that lens.md's limits allow for."""


def listen(settings: Settings) -> socket.socket:
    """A socket at the address; ConfigError where the port is in use, or the address is not this machine's."""
    host, port = settings.host, settings.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # With its protocol, by which asyncio sees that it may send small packets at once. Else each stream's
        # first token waits 40 ms for the answer to its headers.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise ConfigError(f"--host {host}: {error.strerror or error}; use --host 127.0.0.1") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)  # its connections inherit it
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"--port {port}: another program uses it; give another --port, or 0 for any free one"
            ) from None
        if error.errno == errno.EACCES:
            raise ConfigError(f"--port {port}: this user may not use it; give one above 1023") from None
        raise ConfigError(f"--host {host}: {error.strerror or error}; use --host 127.0.0.1") from None
    sock.setblocking(False)
    return sock


class Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Nothing is captured: `serve` looks for signals itself."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends what has no end of its own, then waits for the requests that run."""
        app = self.config.app
        if isinstance(app, Guard):
            for close in app.at_close:
                close()
        await super().shutdown(sockets)


def server_of(app: Guard) -> Server:
    """A server for the app that says nothing itself."""
    limits = app.settings.limits
    protocol = type("LimitedConnection", (Connection,), {"limits": limits})
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(limits.idle_s),
        timeout_graceful_shutdown=int(limits.stop_s),
    )
    return Server(config)


def serve(app: Guard, sock: socket.socket, ready: Callable[[], None]) -> None:
    """Serves until a signal comes, which is raised when the server has stopped; `ready` is called once."""
    with held() as signalled:
        asyncio.run(_serve(server_of(app), sock, ready, signalled))


async def _serve(
    server: Server, sock: socket.socket, ready: Callable[[], None], signalled: Signalled
) -> None:
    running = asyncio.ensure_future(server.serve(sockets=[sock]))
    said = False
    while not running.done():
        await asyncio.wait({running}, timeout=LOOK_S)
        if server.started and not said:
            said = True
            ready()
        if signalled.number:
            server.should_exit = True
    running.result()
