"""Who may talk to the page's server: whoever was given its address, from this machine, and no other page.

Every request has to name this machine as its host, which a name that an attacker points here does not, and has to carry
the token: the first time in the address, and from then on in a cookie that scripts cannot read and that other sites
cannot send. A page on another port of this machine is of the same site, so a request that changes its origin is refused
as well.
"""

from __future__ import annotations

import hmac

from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lowerbound.core.errors import explain

__all__ = ["HOSTS", "Guard", "read_body"]

HOSTS = ("127.0.0.1", "localhost")

# Scripts and styles from the server only, nothing inline, nothing from a network, in no other page's frame.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Guard:
    """Middleware that lets a request through if its host, its origin and its token are right.

    Args:
        app: The application.
        token: What a request has to carry.
    """

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self._app, self._token = app, token.encode()
        self._hosts = TrustedHostMiddleware(self._checked, allowed_hosts=HOSTS, www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._hosts(scope, receive, send_guarded)

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        headers = request.headers
        origin = headers.get("origin")
        if origin is not None and origin != f"{scope['scheme']}://{headers['host']}":
            await PlainTextResponse("This server answers its own page only.", 403)(scope, receive, send)
            return
        # Cookies are shared by all ports of a machine: the name tells two explorers apart.
        cookie = f"lowerbound-{headers['host'].rpartition(':')[2]}"
        if self._known(request.cookies.get(cookie, "")):
            await self._app(scope, receive, send)
        elif request.url.path == "/" and self._known(request.query_params.get("token", "")):
            setting = f"{cookie}={self._token.decode()}; Path=/; HttpOnly; SameSite=Strict"

            async def send_cookie(message: Message) -> None:
                if message["type"] == "http.response.start":
                    MutableHeaders(scope=message).append("Set-Cookie", setting)
                await send(message)

            await self._app(scope, receive, send_cookie)
        else:
            say = "Open the address that `lowerbound explore` has printed, with its token.\n"
            await PlainTextResponse(say, 401)(scope, receive, send)

    def _known(self, token: str) -> bool:
        """Compare in a time that does not depend on where the two differ."""
        return hmac.compare_digest(token.encode(), self._token)


class TooLargeError(Exception):
    """A request has more bytes than it may have."""


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request, of which no more than `limit` bytes are ever held.

    Raises:
        TooLargeError: if it is larger.
    """
    message = explain("request", expected=f"at most {limit // 1_000_000} MB", got="more", cure="Make it smaller.")
    if int(request.headers.get("content-length", "0")) > limit:
        raise TooLargeError(message)
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit:
            raise TooLargeError(message)
    return bytes(content)
