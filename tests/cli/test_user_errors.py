"""What somebody sees who made a mistake in a file that `mesh run` or `mesh serve` is to run."""

import json
import re
import textwrap

import pytest

from mesh.cli import user_errors
from tests.conditions import eventually

START = 'from mesh import Service\nservice = Service("shop")\n'


@pytest.fixture
def run(shell, tmp_path):
    """Write files and run the last one; ``place`` in what it printed stands for the folder."""

    async def run(*command, environment=None, **files):
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(text).replace("START", START.rstrip()))
        command = command or ("run", f"{name}.py")
        arguments = [word.replace("HERE", str(tmp_path)) for word in command]
        running = await shell.start(*arguments, cwd=tmp_path, **(environment or {}))
        await running.child.wait()
        code = await running.end()
        return code, running.errors.decode()

    return run


MISTAKES = {
    "syntax": ('START\n@service.get("/x"\nasync def x(): ...', 1, "3: SyntaxError: '(' was never closed", "^"),
    "indent": ("START\n  x = 1", 1, "3: IndentationError: unexpected indent", "x = 1"),
    "missing": ("import reqests", 1, "1: ModuleNotFoundError: No module named 'reqests'", "import reqests"),
    "attribute": ("import os\nos.foo()", 1, "2: AttributeError: module 'os' has no attribute 'foo'", "os.foo()"),
    "misspelt": (
        'START\n@service.get("/x", sumary="a")\nasync def x(): ...',
        2,
        "3: @service.get has no option 'sumary'; did you mean 'summary'?",
        'sumary="a"',
    ),
    "runs": (
        "START\nservice.run()",
        2,
        "3: service.run() is called while mesh imports this module; put it under if __name__ == '__main__':",
        "service.run()",
    ),
    "parentheses": ("START\n@service.get\nasync def x(): ...", 2, "3: handler 'x': @service.get needs", "@service.get"),
    "hook": (
        "START\n@service.on_startup\nasync def start():\n    raise ValueError('no database')",
        1,
        "5: ValueError: no database",
        "raise ValueError",
    ),
    "resource": (
        """\
        from typing import Annotated
        from mesh import Depends, Service
        service = Service("shop")
        async def pool():
            yield 1 / 0
        @service.get("/x")
        async def x(pool: Annotated[int, Depends(pool, scope="service")]): ...
        """,
        1,
        "5: ZeroDivisionError: division by zero",
        "yield 1 / 0",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
async def test_ones_own_line_comes_first(run, name):
    text, code, first, line = MISTAKES[name]
    got, printed = await run(**{f"{name}_": text})
    assert got == code
    assert printed.startswith(f"error: {name}_.py:{first}"), printed
    assert line in printed
    assert not re.search(r"/mesh/|/click/|importlib|asyncio|uvloop|runpy", printed)
    assert len(printed.splitlines()) <= 8


async def test_a_mistake_in_a_file_that_is_imported(run):
    code, printed = await run(shop_store="x = 1\nnothing\n", shop_main="START\nimport shop_store\n")
    assert (code, printed.splitlines()[0]) == (1, "error: shop_store.py:2: NameError: name 'nothing' is not defined")
    assert 'shop_main.py", line 3' in printed
    assert "/mesh/" not in printed


async def test_a_mistake_that_shows_in_a_library_is_where_it_was_called(run):
    text = 'import json\ntry:\n    json.loads("{")\nexcept ValueError as e:\n    raise OSError from e'
    code, printed = await run(shop_json=text)
    assert (code, printed.splitlines()[0]) == (1, "error: shop_json.py:5: OSError")
    assert "JSONDecodeError" in printed
    code, printed = await run(shop_json='import json\njson.loads("{")')
    assert printed.startswith("error: shop_json.py:2: json.decoder.JSONDecodeError: ")


async def test_the_whole_traceback_at_level_debug(run):
    code, printed = await run(environment={"MESH_LOG_LEVEL": "debug"}, shop_bad="nothing")
    assert (code, printed.splitlines()[0]) == (1, "error: shop_bad.py:1: NameError: name 'nothing' is not defined")
    assert "importlib" in printed
    code, printed = await run(shop_bad="nothing")
    assert printed.splitlines()[-1] == "MESH_LOG_LEVEL=debug shows the whole traceback."


def test_what_comes_from_no_file_of_the_users_is_raised_whole():
    with pytest.raises(json.JSONDecodeError) as raised:
        json.loads("{")
    library = raised.value.with_traceback(raised.value.__traceback__.tb_next)  # without the line above
    with pytest.raises(json.JSONDecodeError):
        user_errors._tell(library, 1, whole=False)


async def test_an_application_is_told_likewise(run):
    serve = ("serve", "shop_app:make", "--name", "shop", "--factory")
    code, printed = await run(*serve, shop_app="def make():\n    return nothing\n")
    assert (code, printed.splitlines()[0]) == (1, "error: shop_app.py:2: NameError: name 'nothing' is not defined")
    code, printed = await run(*serve, shop_app="import nothing")
    assert code == 1
    assert printed.startswith("error: shop_app.py:1: ModuleNotFoundError: No module named 'nothing'\n")


def came(line):
    event = json.loads(line)
    return event["kind"] in ("present", "joined") and event["service"] == "shop"


async def test_a_new_instance_that_does_not_start_says_why(shell, tmp_path):
    file, tried = tmp_path / "shop_live.py", tmp_path / "tried"
    good = START + '@service.get("/x")\nasync def x(): ...\n'
    file.write_text(good)
    changes = await shell.start("tail", "--json")
    running = await shell.start("run", "shop_live.py", "--reload", cwd=tmp_path)
    first = json.loads(await changes.line(came))["instance"]
    file.write_text(f"open({str(tried)!r}, 'w').close()\nnothing\n")
    await eventually(tried.exists)
    file.write_text(good)
    await changes.line(lambda line: came(line) and json.loads(line)["instance"] != first)
    assert await running.end() == 0
    printed = running.errors.decode()
    assert "error: shop_live.py:2: NameError: name 'nothing' is not defined\n    nothing\n" in printed
    assert "the instance from before goes on" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("target", "text", "said"),
    [
        ("a1", "x = 1", "a1 has no Service object"),
        (
            "a2",
            "from fastapi import FastAPI\napp = FastAPI()",
            "a2 has no Service object; app is a FastAPI application: mesh serve a2:app --name a2",
        ),
        ("a3:app", "from flask import Flask\napp = Flask('x')", "app is a Flask application: mesh serve a3:app --name"),
        (
            "a4",
            "from mesh import Router\nr = Router()",
            "has no Service object; r is a Router: a Service includes it",
        ),
        (
            "a5",
            "START\nalso = service\nother = Service('b')\nthird = Service('c')",
            "a5 has 3 Service objects, service, other and third; name one of them, as a5:service",
        ),
        ("a6:servce", "START", "a6:servce is not there; did you mean 'service'?"),
        ("a7:service", "service = 1", "a7:service is a int, not a mesh.Service"),
        ("usrs.py", "START", "there is no file 'usrs.py'; did you mean 'users.py'?"),
        ("usrs:service", "START", "there is no module 'usrs' here; did you mean 'users'?"),
    ],
)
async def test_a_target_that_is_no_service(run, target, text, said):
    name = target.partition(":")[0].removesuffix(".py").replace("usrs", "users")
    code, printed = await run("run", target, **{name: text})
    assert code == 2
    assert printed.startswith("error: ")
    assert said in printed
    assert len(printed.splitlines()) == 1


async def test_a_file_named_as_a_module_that_is_there_already(shell, tmp_path):
    (tmp_path / "asyncio.py").write_text(START)
    done = await shell("run", str(tmp_path / "asyncio.py"))
    assert (done.code, done.out) == (2, "")
    assert "asyncio.py has the name of another module" in done.err


async def test_two_names_for_one_service_are_one(shell, tmp_path):
    (tmp_path / "alias.py").write_text(START + "also = service\n")
    changes = await shell.start("tail", "--json")
    running = await shell.start("run", "alias.py", cwd=tmp_path)
    await changes.line(came)
    assert await running.end() == 0
    assert "shop has no route, no endpoint and no event handler: nobody can call it" in running.errors.decode()
