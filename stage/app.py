"""The addresses of the stage, and what each answers."""

import html
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from string import Template
from typing import Any

import segno
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from audio.description import describe
from live.session import STYLE, Entry, figure, render
from stage import artist
from stage.access import STARTS, Guard, Key, Limiter, Refusal, address_of, read_body
from stage.events import EventStream
from stage.network import Address
from stage.recordings import MOST_PIECE
from stage.show import Show, Visitor

PAGES = Path(__file__).parent / "pages"
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
MOST_JSON = 1 << 14  # bytes
MOST_STREAMS = 200  # open pages
COOKIE_SECONDS = 86_400
GALLERY_HEAD = """<link rel="icon" href="/assets/icon.svg">
<link rel="stylesheet" href="/assets/gallery.css">
<link rel="stylesheet" href="/assets/theme.css">
<script type="module" src="/assets/gallery.js"></script>"""
SCRIPT = '<script type="module" src="/assets/{}.js"></script>'
DEFAULT_TITLE = "Voice to image"

Endpoint = Callable[[Request], Awaitable[Response]]


def build(show: Show, key: Key, address: Address) -> ASGIApp:
    """Return the whole app; `address` says by which names it is reached."""
    pages = _Pages(show, key, address)
    routes = [
        ("/", pages.visitor, "GET"),
        ("/screen", pages.screen, "GET"),
        ("/gallery", pages.gallery, "GET"),
        ("/p/{id}", pages.picture, "GET"),
        ("/p/{id}/qr.svg", pages.qr, "GET"),
        ("/image/{id}", pages.file("image"), "GET"),
        ("/voice/{id}", pages.file("voice"), "GET"),
        ("/card/{id}", pages.file("card"), "GET"),
        ("/assets/{name}", pages.asset, "GET"),
        ("/events/{topic}", pages.events, "GET"),
        ("/recordings", pages.begin, "POST"),
        ("/recordings/{id}/{number:int}", pages.piece, "POST"),
        ("/recordings/{id}/drop", pages.drop, "POST"),
        ("/again", pages.again, "POST"),
        ("/operator", pages.operator, "GET"),
        ("/operator/image/{id}", pages.any_image, "GET"),
        ("/operator/microphones", pages.microphones, "GET"),
        ("/operator/change", pages.change, "POST"),
        ("/operator/picture", pages.change_picture, "POST"),
    ]
    app = Starlette(
        routes=[Route(path, _kindly(endpoint), methods=[method]) for path, endpoint, method in routes],
        exception_handlers={404: lambda *_: pages.missing()},
    )
    return Guard(app, address.hosts, address.scheme)


def _kindly(endpoint: Endpoint) -> Endpoint:
    """Answer refusals as JSON: {"problem": code}."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Refusal as refusal:
            return JSONResponse({"problem": refusal.code}, refusal.status)

    return answer


class _Pages:
    """The endpoints."""

    def __init__(self, show: Show, key: Key, address: Address) -> None:
        self._show, self._key, self._address = show, key, address
        self._secure = address.scheme == "https"
        self._starts = Limiter(*STARTS)
        self._title = show.options.title or DEFAULT_TITLE
        self._accent = show.options.accent

    # --- pages --------------------------------------------------------------------------------------------------------
    def _page(self, name: str, heading: str = "", status: int = 200, **values: str) -> HTMLResponse:
        """Return a page: the body of its file within page.html, with values in place of $names; they are escaped.

        Args:
            heading: goes before the title of the show in that of the window; "": the page is the show's own.
        """
        values |= {"title": self._title, "heading": f"{heading} – {self._title}" if heading else self._title}
        escaped = {key: html.escape(value) for key, value in values.items()}
        body, page = (_template(file).substitute for file in (f"{name}.html", "page.html"))
        escaped["script"] = SCRIPT.format(name) if (PAGES / f"{name}.js").is_file() else ""
        escaped["style"] = f"{name}.css" if (PAGES / f"{name}.css").is_file() else "visitor.css"
        return HTMLResponse(page(body=body(escaped), **escaped), status)

    def missing(self) -> Response:
        """Say that there is no such page, or no longer."""
        return self._page("missing", "Not here", 404)

    async def visitor(self, request: Request) -> Response:
        """Return the page where people speak."""
        return self._with_cookie(self._page("visitor"), self._visitor(request))

    async def screen(self, request: Request) -> Response:
        """Return the page for a projector."""
        return self._page("screen")

    async def gallery(self, request: Request) -> Response:
        """Return all images."""
        figures = (self._figure(entry) for entry in self._show.session.shown())
        return HTMLResponse(render(self._title, figures, GALLERY_HEAD))

    def _figure(self, entry: Entry) -> str:
        voice, card = (f"/{kind}/{entry.id}" if getattr(entry, kind) else "" for kind in ("voice", "card"))
        addresses = f"/image/{entry.id}", f"/p/{entry.id}", voice, card
        return figure(entry.prompt, *addresses, entry.id, entry.recording, entry.places)

    async def picture(self, request: Request) -> Response:
        """Return the page of one image, to take home."""
        found = self._show.find(request.path_params["id"])
        if not found:
            return self.missing()
        _, entry = found
        card = "" if entry.card else "hidden"
        prompt = entry.prompt or "image"
        voice = describe(entry.places)
        return self._page("picture", prompt, id=entry.id, prompt=prompt, voice=voice, without_card=card)

    async def qr(self, request: Request) -> Response:
        """Return the QR code of that page."""
        if not self._show.public or not self._show.find(request.path_params["id"]):
            return self.missing()
        buffer = io.BytesIO()
        code = segno.make(f"{self._show.public}/p/{request.path_params['id']}", micro=False)
        code.save(buffer, kind="svg", scale=4, border=4, dark="#000", light="#fff", xmldecl=False)
        return Response(buffer.getvalue(), media_type="image/svg+xml")

    def file(self, kind: str) -> Endpoint:
        """Return the endpoint of one kind of file: image, voice or card."""

        async def answer(request: Request) -> Response:
            id = request.path_params["id"]
            found = self._show.find(id)
            name = getattr(found[1], kind) if found else ""
            if not found or not name:
                return self.missing()
            path = found[0] if kind == "image" else self._show.session.folder / name
            if not path.is_file():
                return self.missing()
            told = BackgroundTask(self._show.on_fetched, id) if kind == "image" else None
            return FileResponse(path, background=told)

        return answer

    async def asset(self, request: Request) -> Response:
        """Return a script or a style sheet."""
        name = request.path_params["name"]
        if name == "theme.css":
            ink = "#000" if _luminance(self._accent) > 0.18 else "#fff"
            return Response(f":root {{ --accent: {self._accent}; --ink: {ink}; }}\n", media_type="text/css")
        if name == "gallery.css":
            return Response(STYLE, media_type="text/css")
        path = PAGES / name
        if path.suffix not in TYPES or path.parent != PAGES or not path.is_file():
            return self.missing()
        return FileResponse(path, media_type=TYPES[path.suffix], headers={"cache-control": "no-cache"})

    # --- visitors -----------------------------------------------------------------------------------------------------
    def _visitor(self, request: Request) -> Visitor:
        return self._show.visitor(request.cookies.get("visitor", ""))

    def _with_cookie(self, response: Response, visitor: Visitor) -> Response:
        """Let the browser know who it is."""
        response.set_cookie(
            "visitor", visitor.id, COOKIE_SECONDS, httponly=True, samesite="strict", secure=self._secure
        )
        return response

    async def events(self, request: Request) -> Any:
        """Open the event stream of a page."""
        topic, headers = request.path_params["topic"], []
        if topic == "visitor":
            visitor = self._visitor(request)
            topic = visitor.topic
            cookie = self._with_cookie(Response(), visitor).headers["set-cookie"]
            headers = [(b"set-cookie", cookie.encode())]
        elif topic == "artist":
            self._check_artist(request)
        elif topic not in ("screen", "gallery"):
            return self.missing()
        if self._show.hub.count() >= MOST_STREAMS:
            raise Refusal("full", 503)
        return EventStream(self._show.hub, topic, request.headers.get("last-event-id", ""), headers)

    async def begin(self, request: Request) -> Response:
        """Begin a recording."""
        if not self._starts.allows(address_of(request)):
            raise Refusal("too often", 429)
        prompt = (await _json(request)).get("prompt", "")
        if not isinstance(prompt, str):
            raise Refusal("prompt", 422)
        visitor = self._visitor(request)
        recording = await run_in_threadpool(self._show.begin, visitor, prompt)
        return self._with_cookie(JSONResponse({"recording": recording.id}, 201), visitor)

    async def piece(self, request: Request) -> Response:
        """Take a piece of a recording; the last one of it ends it."""
        if request.headers.get("content-type") != "audio/wav":
            raise Refusal("not a recording", 415)
        body = await read_body(request, MOST_PIECE)
        last = request.query_params.get("last") == "1"
        id, number = request.path_params["id"], request.path_params["number"]
        visitor = self._visitor(request)
        return JSONResponse(await run_in_threadpool(self._show.piece, visitor, id, number, body, last))

    async def drop(self, request: Request) -> Response:
        """Give up a recording, for a reason that the page knows."""
        problem = (await _json(request)).get("problem")
        visitor = self._visitor(request)
        if visitor.recording and visitor.recording.id == request.path_params["id"]:
            known = problem if problem in ("interrupted", "microphone", "") else "interrupted"
            await run_in_threadpool(self._show.drop, visitor, known)
        return JSONResponse({})

    async def again(self, request: Request) -> Response:
        """Go back to the start."""
        self._show.again(self._visitor(request))
        return JSONResponse({})

    # --- the artist ---------------------------------------------------------------------------------------------------
    def _check_artist(self, request: Request) -> None:
        if not self._key.known(request):
            raise Refusal("key", 403)

    async def operator(self, request: Request) -> Response:
        """Return the artist's page; a key in the address is traded for a cookie first."""
        if "key" in request.query_params:
            if not self._key.opens(request, request.query_params["key"]):
                return self._no_key()
            response = RedirectResponse("/operator", 303)
            response.set_cookie(
                "operator", self._key.cookie, COOKIE_SECONDS, "/", httponly=True, samesite="strict", secure=self._secure
            )
            return response
        return self._page("operator", "Operator") if self._key.known(request) else self._no_key()

    def _no_key(self) -> Response:
        return self._page("key", "For the artist", 403)

    async def any_image(self, request: Request) -> Response:
        """Return an image, also a hidden one."""
        self._check_artist(request)
        entry = self._show.session.find(request.path_params["id"])
        return FileResponse(self._show.session.folder / entry.image) if entry else self.missing()

    async def microphones(self, request: Request) -> Response:
        """List the microphones of this machine."""
        self._check_artist(request)
        return JSONResponse(await run_in_threadpool(artist.microphones))

    async def change(self, request: Request) -> Response:
        """Change settings."""
        self._check_artist(request)
        content = await _json(request)
        settings = await run_in_threadpool(artist.checked, content, self._show)
        await run_in_threadpool(self._show.change, settings)
        return JSONResponse({})

    async def change_picture(self, request: Request) -> Response:
        """Hide an image, show it again, or delete it."""
        self._check_artist(request)
        content = await _json(request)
        id, action = content.get("id"), content.get("action")
        if not isinstance(id, str) or action not in ("hide", "show", "delete"):
            raise Refusal("unknown", 422)
        if action == "delete":
            await run_in_threadpool(self._show.delete, id)
        else:
            await run_in_threadpool(self._show.hide, id, action == "hide")
        return JSONResponse({})


def _template(file: str) -> Template:
    return Template((PAGES / file).read_text(encoding="utf-8"))


async def _json(request: Request) -> dict[str, Any]:
    """Return the JSON object that was sent.

    Raises:
        Refusal: it is none.
    """
    if request.headers.get("content-type") != "application/json":
        raise Refusal("not JSON", 415)
    try:
        content = json.loads(await read_body(request, MOST_JSON))
    except (ValueError, RecursionError):
        raise Refusal("not JSON", 400) from None
    if not isinstance(content, dict):
        raise Refusal("not JSON", 400)
    return content


def _luminance(colour: str) -> float:
    """Return the relative luminance of #rrggbb, 0 to 1 (WCAG 2.2)."""
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
