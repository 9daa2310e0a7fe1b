"""Dependencies: values that a handler's annotations ask for, made for one request or for one instance.

::

    async def open_database() -> AsyncIterator[Database]:
        async with Database.connect() as database:
            yield database

    @service.get("/users/{user_id}")
    async def get_user(user_id: int, db: Annotated[Database, Depends(open_database, scope="service")]) -> User: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

from mesh.service.binder import Dependency
from mesh.service.context import Context
from mesh.service.http_messages import Request


class Resources:
    """The values of the dependencies of service scope of one instance."""

    def __init__(self) -> None:
        self.values: dict[Callable[..., Any], Any] = {}
        self._stack = AsyncExitStack()

    async def open(self, dependencies: Iterable[Dependency]) -> None:
        """Make every value of service scope among the dependencies, and before it the values that its factory takes."""
        for dependency in dependencies:
            await self.open(dependency.binder.dependencies)
            if dependency.scope == "service" and dependency.factory not in self.values:
                arguments = {d.name: self.values[d.factory] for d in dependency.binder.dependencies}
                self.values[dependency.factory] = await enter(dependency.factory, arguments, self._stack)

    async def aclose(self) -> None:
        """Tear down in reverse order; one failing teardown does not stop the others."""
        self.values.clear()
        await self._stack.aclose()


async def resolve(
    dependencies: Iterable[Dependency],
    request: Request,
    context: Context,
    resources: Mapping[Callable[..., Any], Any],
    made: dict[Callable[..., Any], Any],
    stack: AsyncExitStack,
) -> dict[str, Any]:
    """The values for one request, by parameter.

    dependencies: the dependencies of the handler, or of a factory
    request: the request
    context: its context
    resources: the values of service scope, by factory
    made: the values of this request, by factory; new ones join them
    stack: gets the teardowns
    """
    values: dict[str, Any] = {}
    for name, factory, scope, binder in dependencies:
        if scope == "service":
            values[name] = resources[factory]
            continue
        if factory not in made:
            arguments = binder.bind(request, context)
            arguments.update(await resolve(binder.dependencies, request, context, resources, made, stack))
            made[factory] = await enter(factory, arguments, stack)
        values[name] = made[factory]
    return values


async def enter(factory: Callable[..., Any], arguments: dict[str, Any], stack: AsyncExitStack) -> Any:
    """Call a factory; its teardown, if it has one, goes on the stack."""
    target = factory if inspect.isroutine(factory) or inspect.isclass(factory) else type(factory).__call__
    if inspect.isasyncgenfunction(target):
        return await stack.enter_async_context(asynccontextmanager(factory)(**arguments))
    if inspect.isgeneratorfunction(target):
        return stack.enter_context(contextmanager(factory)(**arguments))
    value = factory(**arguments)
    return await value if inspect.isawaitable(value) else value
