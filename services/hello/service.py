"""Greets by name."""

from msgspec import Struct

from mesh import Context, Service

service = Service("hello", version="1.0.0", description="greets, and says which instance did")


class Greeting(Struct):
    message: str
    instance: str


@service.get("/hello/{name}", tags=("demo",))
async def greet(name: str, ctx: Context, shout: bool = False) -> Greeting:
    """Greet somebody by name."""
    message = f"Hello, {name}!"
    return Greeting(message=message.upper() if shout else message, instance=ctx.instance)
