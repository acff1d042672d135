"""The web application of `sphere audit`, and what protects it.

What models wrote is untrusted: every text is escaped, and the pages may load and run nothing but
this package's own style and script. Other sites can neither read a page nor post to one: the
server answers to its own loopback names only, and a decision needs the token of a page.
"""

import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sphere_ray.audit.decisions import Decisions, Form
from sphere_ray.audit.journal import Journal
from sphere_ray.audit.library import Library
from sphere_ray.audit.pages import Pages
from sphere_ray.errors import SphereError

HOSTS = ["127.0.0.1", "localhost"]
_STATIC = Path(__file__).parent / "static"
_MAX_FORM_BYTES = 1 << 16
_HEADERS = {
    b"content-security-policy": (
        b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}


class _Secured:
    """Adds the headers that bind a page to this server to every response."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS.items()]
            await send(message)

        await self._app(scope, receive, with_headers)


def create_app(library: Library, journal: Journal, user: str) -> Starlette:
    """The application over a run; decisions are noted under the name `user`."""
    token = secrets.token_urlsafe()
    pages, decisions = Pages(library, journal, user, token), Decisions(library, journal, user)

    def page(handler: Callable[[Request], Response]) -> Callable[..., Awaitable[Response]]:
        """Answer in a worker thread, with what others decided meanwhile."""

        def answer(request: Request) -> Response:
            journal.refresh()
            return handler(request)

        async def endpoint(request: Request) -> Response:
            return await run_in_threadpool(answer, request)

        return endpoint

    def post(handler: Callable[[Form], Response]) -> Callable[..., Awaitable[Response]]:
        """Answer a form that carries the token of a page of this server."""

        async def endpoint(request: Request) -> Response:
            form = await _form(request)
            if not secrets.compare_digest(form.get("token", "").encode(), token.encode()):
                raise HTTPException(403, "The page is of an earlier server. Open it anew.")
            return await run_in_threadpool(handler, form)

        return endpoint

    at = "/i/{iteration:int}"
    return Starlette(
        routes=[
            Route("/", page(pages.overview)),
            Route("/resume", page(pages.resume)),
            Route(at, page(pages.overview)),
            Route(f"{at}/problems", page(pages.problems)),
            Route(f"{at}/problem/{{problem_id}}", page(pages.problem)),
            Route(f"{at}/pairs", page(pages.pairs)),
            Route(f"{at}/pair/{{pair_id}}", page(pages.pair)),
            Route(f"{at}/queue", page(pages.queue)),
            Route("/decide", post(decisions.decide), methods=["POST"]),
            Route("/undo", post(decisions.undo), methods=["POST"]),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        middleware=[Middleware(_Secured), Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)],
        exception_handlers={HTTPException: pages.trouble, SphereError: pages.trouble},
    )


async def _form(request: Request) -> Form:
    size = request.headers.get("content-length", "")
    if not size.isdecimal() or int(size) > _MAX_FORM_BYTES:
        raise HTTPException(413, "The form is too long.")
    found = parse_qs((await request.body()).decode("utf-8", "replace"))
    return {name: values[-1] for name, values in found.items()}
