"""Who may ask for what: names of the server, origins, the artist's key, how often and how much."""

import asyncio
import hmac
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_SECONDS = 15.0  # in which a whole body has to arrive
ADDRESSES = 2048  # whose requests are counted at a time
REQUESTS = (200.0, 600.0)  # a second and at once, from one address
STARTS = (1.0, 30.0)  # recordings
KEYS = (0.2, 5.0)  # tries of the artist's key
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Refusal(Exception):
    """A request that is not answered; `code` names the reason for the page, which has words for it."""

    def __init__(self, code: str, status: int = 409) -> None:
        """Keep the reason, and the HTTP status."""
        super().__init__(code)
        self.code, self.status = code, status


class Limiter:
    """A token bucket for each address."""

    def __init__(self, rate: float, burst: float) -> None:
        """Allow `burst` requests at once, and `rate` a second in the long run."""
        self._rate, self._burst = rate, burst
        self._buckets: dict[str, tuple[float, float]] = {}  # what is left, and when; the last one to ask stands last

    def allows(self, address: str) -> bool:
        """Count a request; return whether it is within the limit."""
        now = time.monotonic()
        left, then = self._buckets.pop(address, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._rate)
        allowed = left >= 1
        self._buckets[address] = (left - allowed, now)
        while len(self._buckets) > ADDRESSES:
            self._buckets.pop(next(iter(self._buckets)))
        return allowed


@dataclass
class Key:
    """The artist's key, and the cookie that it is traded for."""

    text: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    tries: Limiter = field(default_factory=lambda: Limiter(*KEYS))

    def opens(self, request: Request, key: str) -> bool:
        """Tell whether a key is the right one.

        Raises:
            Refusal: too many wrong keys came from this address.
        """
        right = _same(key, self.text)
        if not right and not self.tries.allows(address_of(request)):
            raise Refusal("too often", 429)
        return right

    def known(self, request: Request) -> bool:
        """Tell whether a request has the cookie."""
        return _same(request.cookies.get("operator", ""), self.cookie)


def _same(one: str, other: str) -> bool:
    """Compare two texts in constant time."""
    return hmac.compare_digest(one.encode(errors="replace"), other.encode())


def address_of(request: Request) -> str:
    """Return the address that a request comes from."""
    return request.client.host if request.client else ""


class Guard:
    """ASGI middleware: refuses foreign names and origins and floods, and adds the headers of every answer."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], scheme: str) -> None:
        """Wrap an app.

        Args:
            hosts: values of `Host` under which the server is reached, in lower case, with the port.
            scheme: http or https.
        """
        self._app = app
        self._hosts = frozenset(hosts)
        self._origins = frozenset(f"{scheme}://{host}" for host in hosts)
        self._limiter = Limiter(*REQUESTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a websocket
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], *((name.encode(), value.encode()) for name, value in HEADERS.items())]
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                message = {**message, "headers": headers}
            await send(message)

        problem = self._problem(scope)
        answer: ASGIApp = PlainTextResponse(problem[1], problem[0]) if problem else self._app
        await answer(scope, receive, send_with_headers)

    def _problem(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and reason of a refusal, or None."""
        headers = Headers(scope=scope)
        hosts = [host.lower() for host in headers.getlist("host")]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return 421, "this server does not go by that name"
        if scope["method"] not in ("GET", "HEAD") and headers.getlist("origin") not in [[o] for o in self._origins]:
            return 403, "this request comes from another page"
        client = scope.get("client")
        if not self._limiter.allows(client[0] if client else ""):
            return 429, "too many requests"
        return None


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request.

    Raises:
        Refusal: it is longer than `limit` bytes, or does not arrive within BODY_SECONDS.
    """
    if int(request.headers.get("content-length") or 0) > limit:
        raise Refusal("too large", 413)
    body = b""

    async def read() -> None:
        nonlocal body
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise Refusal("too large", 413)

    try:
        await asyncio.wait_for(read(), BODY_SECONDS)
    except (TimeoutError, asyncio.TimeoutError):
        raise Refusal("too slow", 408) from None
    return body
