"""An ordinary FastAPI application, written without a thought of the mesh."""

import asyncio
import hashlib
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Annotated

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Cookie,
    Depends,
    FastAPI,
    Form,
    Header,
    HTTPException,
    Query,
    Request,
    Response,
    UploadFile,
    WebSocket,
    WebSocketDisconnect,
)
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    StreamingResponse,
)
from pydantic import BaseModel, Field
from starlette.middleware.gzip import GZipMiddleware

EVENTS = []


@asynccontextmanager
async def lifespan(app):
    EVENTS.append("started")
    yield {"greeting": "from the lifespan"}
    EVENTS.append("stopped")


app = FastAPI(title="Shop", description="sells things", version="1.2.3", lifespan=lifespan)
app.add_middleware(GZipMiddleware, minimum_size=2000)


@app.middleware("http")
async def stamp(request, call_next):
    response = await call_next(request)
    response.headers["x-stamp"] = "1"
    return response


class Color(StrEnum):
    red = "red"
    blue = "blue"


class Item(BaseModel):
    name: str = Field(min_length=1, max_length=20)
    price: float = Field(gt=0)
    tags: list[str] = []


class Broken(Exception):
    pass


@app.exception_handler(Broken)
async def on_broken(request, error):
    return JSONResponse({"broken": str(error)}, status_code=418, headers={"x-broken": "yes"})


# -- dependencies


async def page(skip: int = 0, limit: Annotated[int, Query(le=100)] = 10):
    yield {"skip": skip, "limit": limit}
    EVENTS.append("page done")


def user(authorization: Annotated[str | None, Header()] = None):
    if authorization != "Bearer good":
        raise HTTPException(401, "who are you?", headers={"www-authenticate": "Bearer"})
    return "ann"


# -- routes


@app.get("/", tags=["pages"])
async def home():
    """The first page."""
    return {"hello": "world"}


@app.get("/health", include_in_schema=False)
async def health():
    return {"status": "ok"}


@app.get("/hidden", include_in_schema=False)
async def hidden():
    return "internal"


@app.get("/items/{item_id}", tags=["items"], summary="One thing", deprecated=True)
async def item(item_id: int, q: str | None = None, color: Color = Color.red):
    if item_id > 1000:
        raise HTTPException(404, f"no item {item_id}")
    return {"id": item_id, "q": q, "color": color}


@app.post("/items", status_code=201)
async def make(item: Item, response: Response):
    response.headers["location"] = f"/items/{len(item.name)}"
    return item


@app.api_route("/any", methods=["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def any_method(request: Request):
    return {"method": request.method, "body": (await request.body()).decode()}


@app.get("/search")
async def search(page: Annotated[dict, Depends(page)], tag: Annotated[list[str], Query()] = []):  # noqa: B006
    return {**page, "tags": tag}


@app.get("/me")
def me(user: Annotated[str, Depends(user)]):  # in a thread
    return {"user": user}


@app.get("/cookies")
async def cookies(response: Response, seen: Annotated[str | None, Cookie()] = None):
    response.set_cookie("one", "1", httponly=True, path="/", max_age=60)
    response.set_cookie("two", "zwei; und", secure=True, samesite="lax")
    response.delete_cookie("three")
    return {"seen": seen}


@app.get("/headers")
async def headers(request: Request):
    response = PlainTextResponse("\n".join(request.headers.getlist("x-repeated")))
    response.raw_headers += [(b"x-many", b"a"), (b"x-many", b"b"), (b"x-latin", "é".encode("latin-1"))]
    return response


@app.get("/redirect")
async def redirect(code: int = 307):
    return RedirectResponse("/items/7?q=from%20there", status_code=code)


@app.get("/url")
async def url(request: Request):
    return {
        "path": request.url.path,
        "raw": request.scope["raw_path"].decode(),
        "query": request.scope["query_string"].decode(),
        "scheme": request.url.scheme,
        "root": request.scope["root_path"],
        "client": request.client.host,
        "made": str(request.url_for("item", item_id=3).path),
        "state": request.state.greeting,
    }


@app.get("/files/{path:path}")
async def files(path: str, request: Request):
    return {"path": path, "raw": request.scope["raw_path"].decode()}


@app.get("/reports/{name}.csv")
async def report(name: str):
    return Response(f"name\n{name}\n", media_type="text/csv")


@app.post("/form")
async def form(name: Annotated[str, Form()], age: Annotated[int, Form()] = 0):
    return {"name": name, "age": age}


@app.post("/upload")
async def upload(files: list[UploadFile], note: Annotated[str, Form()] = ""):
    return [
        {"name": f.filename, "type": f.content_type, "sha": hashlib.sha256(await f.read()).hexdigest(), "note": note}
        for f in files
    ]


@app.post("/raw")
async def raw(request: Request):
    size, sha = 0, hashlib.sha256()
    async for piece in request.stream():
        size += len(piece)
        sha.update(piece)
    return {"size": size, "sha": sha.hexdigest()}


@app.get("/html", response_class=HTMLResponse)
async def html():
    return "<p>h\u00e9llo \N{SNOWMAN}</p>"


@app.get("/bytes/{size}")
async def some_bytes(size: int):
    return Response(b"b" * size, media_type="application/octet-stream")


@app.get("/stream")
async def stream(count: int = 3):
    async def lines():
        for number in range(count):
            yield f"line {number}\n"

    return StreamingResponse(lines(), media_type="text/plain")


@app.get("/events")
async def events():
    async def forever():
        number = 0
        try:
            while True:
                yield f"data: {number}\n\n"
                number += 1
                await asyncio.sleep(0.01)
        finally:
            EVENTS.append("events left")

    return StreamingResponse(forever(), media_type="text/event-stream")


@app.get("/file")
async def file():
    return FileResponse(__file__, filename="app.py", media_type="text/x-python")


@app.get("/broken")
async def broken():
    raise Broken("it is")


@app.get("/crash")
async def crash():
    raise ValueError("nobody handles this")


@app.get("/crash/late")
async def crash_late():
    async def pieces():
        yield b"x" * 10
        raise ValueError("in the middle")

    return StreamingResponse(pieces(), media_type="application/octet-stream")


@app.get("/status/{code}")
async def status(code: int):
    return Response(status_code=code)


@app.post("/background")
async def background(tasks: BackgroundTasks):
    async def later(what):
        await asyncio.sleep(0.05)
        EVENTS.append(what)

    tasks.add_task(later, "done in the background")
    return "accepted"


@app.get("/slow")
async def slow(seconds: float = 1.0):
    await asyncio.sleep(seconds)
    return "slept"


@app.websocket("/ws/{room}")
async def ws(socket: WebSocket, room: str):
    if room == "closed":
        await socket.close(1008)
        return
    chosen = "v1" if "v1" in socket.scope["subprotocols"] else None
    await socket.accept(chosen, [(b"x-room", room.encode()), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")])
    await socket.send_json({"room": room, "query": socket.query_params.get("q"), "scheme": socket.url.scheme})
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                EVENTS.append(("left", message["code"]))
                return
            if message.get("text") == "bye":
                await socket.close(4000, "bye to you")
                return
            if message.get("text") is not None:
                await socket.send_text(message["text"].upper())
            else:
                await socket.send_bytes(message["bytes"][::-1])
    except WebSocketDisconnect as gone:
        EVENTS.append(("left", gone.code))


router = APIRouter(prefix="/v1", tags=["router"])


@router.get("/things")
async def things():
    return ["thing"]


@router.delete("/things/{thing}", status_code=204)
async def remove(thing: str):
    return None


inner = APIRouter(prefix="/inner")


@inner.get("/deep")
async def deep():
    return "deep"


router.include_router(inner)
app.include_router(router)

sub = FastAPI(title="sub")


@sub.get("/page")
async def sub_page(request: Request):
    return {"root": request.scope["root_path"], "path": request.url.path}


app.mount("/sub", sub)
