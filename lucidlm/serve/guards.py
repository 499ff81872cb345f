"""Every request passes here first: who asks, from where, in which form and how much; then the app answers.

One layer of ASGI. It reads the body itself, within its limits, and ends the work of a client that left.
"""

import asyncio
import ipaddress
import re
import secrets
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lucidlm.errors import ConfigError, ServerError
from lucidlm.serve.faults import error_of, json_bytes, status_of
from lucidlm.serve.limits import LIMITS, Limits

SECURITY = {
    # Styles of its own are how the library of charts works; scripts come from files of this server alone.
    "content-security-policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
LOCAL_NAMES = {"localhost", "127.0.0.1", "::1"}
BLOCK = 2**20
"""Bytes of a body that the app gets at once."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What the requests of some routes may be."""

    methods: tuple[str, ...]
    path: re.Pattern[str]
    kinds: tuple[str, ...] = ("application/json",)
    """Content types of a body."""
    large: bool = False
    """Whether a body may be as large as a document."""
    endless: bool = False
    """Whether the answer may take longer than `total_s`."""


RULES = (
    Rule(("POST",), re.compile("/api/documents"), ("application/octet-stream", "text/plain"), large=True),
    Rule(("GET",), re.compile("/api/runs/[^/]+/events"), endless=True),
    Rule((), re.compile("")),
)
"""The first that fits a request holds for it; the last one holds for all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the server listens, and who may use it."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = field(default=None, repr=False)
    limits: Limits = LIMITS

    def __post_init__(self) -> None:
        """ConfigError for an address that others can reach without an API key, or a port that is none."""
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port {self.port}: it must be from 0 (any free port) to 65535")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ConfigError("--api-key: it goes into a header; give printable ASCII characters")
        if self.api_key is not None and not self.api_key.strip():
            raise ConfigError('--api-key "": it is empty; give a key, or leave it out')
        if self.api_key is None and not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host}: other machines can reach this address; give --api-key too, or use "
                "--host 127.0.0.1"
            )

    @property
    def names(self) -> frozenset[str] | None:
        """Host names that a request may use; None for all, where the server listens on every address."""
        if self.host in ("0.0.0.0", "::", ""):
            return None  # every request has to bring the API key
        return frozenset(LOCAL_NAMES | {self.host.lower()} if is_loopback(self.host) else {self.host.lower()})


def rule_of(scope: Scope) -> Rule:
    """What a request may be."""
    method, path = scope["method"], scope["path"]
    fitting = (each for each in RULES[:-1] if method in each.methods and each.path.fullmatch(path))
    return next(fitting, RULES[-1])


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address.

    >>> is_loopback("localhost"), is_loopback("127.0.0.2"), is_loopback("0.0.0.0"), is_loopback("a.example")
    (True, True, False, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """The app behind the checks."""

    def __init__(self, app: ASGIApp, settings: Settings, at_close: Sequence[Callable[[], None]] = ()) -> None:
        self.app, self.settings = app, settings
        self.at_close = at_close
        """Called when the server begins to stop: ends answers that have no end of their own."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; what is no HTTP is passed on (the server's start) or refused (web sockets)."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _Exchange(self, scope, receive, send).run()

    def check(self, scope: Scope) -> None:
        """ServerError for a request that is refused by its headers."""
        headers = Headers(scope=scope)
        self._check_host(headers, scope["scheme"])
        key = self.settings.api_key
        if key is not None:
            given = headers.get("authorization", "")
            if not secrets.compare_digest(given.encode(), f"Bearer {key}".encode()):
                raise ServerError(
                    "the API key is missing or wrong", "send Authorization: Bearer KEY", status=401
                )
        rule = rule_of(scope)
        length, most = headers.get("content-length", "0"), self.most_bytes(rule)
        if not length.isdecimal() or int(length[:20]) > most:
            raise too_large(most)
        has_body = (
            length != "0" or "transfer-encoding" in headers or scope["method"] in ("POST", "PUT", "PATCH")
        )
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if has_body and kind not in rule.kinds:
            raise ServerError(
                f"content type {kind or 'none'}: this route takes {' or '.join(rule.kinds)}",
                f"send Content-Type: {rule.kinds[0]}",
                status=415,
            )

    def most_bytes(self, rule: Rule) -> int:
        """Bytes of a body."""
        limits = self.settings.limits
        return limits.document_bytes if rule.large else limits.body_bytes

    def _check_host(self, headers: Headers, scheme: str) -> None:
        """A page of another site may reach this address by a name of its own, or send a form to it."""
        host, names = headers.get("host", ""), self.settings.names
        if names is not None and _host_name(f"//{host}") not in names:
            raise ServerError(
                f"host {host!r} is not this server", "use the address that it printed", status=403
            )
        origin = headers.get("origin")
        if origin is not None and origin != f"{scheme}://{host}":
            raise ServerError(f"origin {origin!r}: pages of other sites may not use this server", status=403)


def too_large(most: int) -> ServerError:
    """The error of a body that is too large."""
    return ServerError(f"the body is larger than {most:,} bytes", "send less at once", status=413)


def _host_name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


class _Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self.guard, self.scope, self.limits = guard, scope, guard.settings.limits
        self._receive, self._send_on = receive, send
        # A document goes to the disk; other bodies stay in memory.
        self._body = tempfile.SpooledTemporaryFile(max_size=self.limits.body_bytes)  # noqa: SIM115
        self._unread = True
        self._gone = asyncio.Event()
        self._state: dict[str, Any] = scope.setdefault("state", {})
        self._state.setdefault("drop", lambda: None)
        self._state["at_end"] = self._at_end = list[Callable[[], None]]()
        """What the routes want called when the exchange is over, however it ends."""
        self.started = self.complete = False

    async def run(self) -> None:
        """Checks, reads the body, lets the app answer; at most `total_s` seconds in all."""
        try:
            self.guard.check(self.scope)
            rule = rule_of(self.scope)
            async with asyncio.timeout(self.limits.total_s):
                complete = await self._read_body(self.guard.most_bytes(rule))
                if complete and not rule.endless:
                    await self._answered()
            if complete and rule.endless:
                await self._answered()
        except TimeoutError:
            await self._refuse(
                ServerError(
                    f"the request took longer than {self.limits.total_s:g} s", "ask for less", status=408
                )
            )
        except Exception as error:
            await self._refuse(error)
        finally:
            self._body.close()
            for close in self._at_end:
                close()

    async def _read_body(self, most: int) -> bool:
        """Keeps the whole body; False if the client left."""
        size = 0
        while True:
            try:
                message = await asyncio.wait_for(self._receive(), self.limits.idle_s)
            except TimeoutError:
                raise ServerError(f"nothing came for {self.limits.idle_s:g} s", status=408) from None
            if message["type"] == "http.disconnect":
                return False
            part = message.get("body", b"")
            if (size := size + len(part)) > most:
                raise too_large(most)
            self._body.write(part)
            if not message.get("more_body", False):
                self._body.seek(0)
                return True

    async def _answered(self) -> None:
        """Runs the app until it has answered or the client has left."""
        app = asyncio.ensure_future(self.guard.app(self.scope, self._replay, self._send))
        left = asyncio.ensure_future(self._watch())
        try:
            await asyncio.wait({app, left}, return_when=asyncio.FIRST_COMPLETED)
            if not self.complete and not app.done():
                app.cancel()
            await asyncio.gather(app, return_exceptions=True)
        finally:
            left.cancel()
            app.cancel()
        if not app.cancelled() and (error := app.exception()) is not None:
            raise error

    async def _watch(self) -> None:
        """Returns when the client has left, or the answer is complete."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()

    async def _replay(self) -> Message:
        """The body, in blocks; then the news that the client has left."""
        if self._unread:
            block = self._body.read(BLOCK)
            self._unread = len(block) == BLOCK
            return {"type": "http.request", "body": block, "more_body": self._unread}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY.items():
                headers[name] = value
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = True
        await self._send_on(message)

    async def _refuse(self, error: Exception) -> None:
        """Answers with the error; an answer that has begun is cut off."""
        if self.started:
            error_of(error)  # says it
            self._state["drop"]()
            return
        body = json_bytes(error_of(error))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status_of(error) == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await self._send({"type": "http.response.start", "status": status_of(error), "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
