"""An ordinary Litestar application."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from litestar import Litestar, Request, Response, get, post
from litestar.datastructures import UploadFile
from litestar.enums import RequestEncodingType
from litestar.params import Body, FromPath, JSONBody
from litestar.response import Redirect, Stream


@dataclass
class Item:
    name: str
    price: float


@get("/shop")
async def home() -> dict[str, str]:
    return {"hello": "shop"}


@get("/shop/items/{item_id:int}")
async def item(item_id: FromPath[int], request: Request) -> dict[str, object]:
    return {"id": item_id, "q": request.query_params.get("q")}


@post("/shop/items")
async def make(data: JSONBody[Item]) -> Item:
    return data


@post("/shop/upload")
async def upload(data: Annotated[UploadFile, Body(media_type=RequestEncodingType.MULTI_PART)]) -> int:
    return len(await data.read())


@get("/shop/stream")
async def stream() -> Stream:
    async def lines() -> AsyncIterator[str]:
        for number in range(5):
            yield f"{number}\n"

    return Stream(lines(), media_type="text/plain")


@get("/shop/cookies")
async def cookies() -> Response[str]:
    response = Response("baked", media_type="text/plain")
    response.set_cookie("one", "1")
    response.set_cookie("two", "2", httponly=True)
    return response


@get("/shop/redirect")
async def away() -> Redirect:
    return Redirect("/shop/items/7")


@get("/shop/crash")
async def crash() -> None:
    raise ValueError("nobody handles this")


app = Litestar([home, item, make, upload, stream, cookies, away, crash], openapi_config=None)
