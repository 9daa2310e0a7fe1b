"""Jokes: their routes, and that they stay."""

from services.jokes import service as jokes


async def test_routes(mesh, environment):
    await mesh.start(jokes)
    seeded = (await mesh.http.get("/jokes")).json()
    assert [joke["id"] for joke in seeded] == sorted((joke["id"] for joke in seeded), reverse=True)
    assert (await mesh.http.get("/jokes/random")).json() in seeded
    made = await mesh.http.post("/jokes", json={"text": "Knock, knock.", "category": "doors"})
    assert made.status_code == 201
    joke = made.json()
    assert (await mesh.http.get(f"/jokes/{joke['id']}")).json() == joke
    assert (await mesh.http.get("/jokes?limit=1")).json() == [joke]
    assert (await mesh.http.get("/jokes?category=doors")).json() == [joke]
    assert (await mesh.http.get("/jokes/random?category=doors")).json() == joke
    assert {"name": "doors", "jokes": 1} in (await mesh.http.get("/jokes/categories")).json()
    assert (await mesh.http.post("/jokes", json={"text": "Who is there?"})).json()["category"] == "general"
    for path in ("/jokes/99999", "/jokes/random?category=nothing"):
        assert (await mesh.http.get(path)).status_code == 404
    for body in ({"text": ""}, {"text": "x" * 501}, {"text": "x\0"}, {"text": "x", "category": "No Such"}):
        assert (await mesh.http.post("/jokes", json=body)).status_code == 422


async def test_jokes_outlive_the_instance_and_are_seeded_once(mesh, environment):
    first = await mesh.start(jokes)
    await mesh.http.post("/jokes", json={"text": "Still here.", "category": "doors"})
    before = (await mesh.http.get("/jokes")).json()
    await first.drain()
    await mesh.start(jokes)
    assert (await mesh.http.get("/jokes")).json() == before


async def test_each_instance_may_have_a_database_of_its_own(mesh, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "sqlite://")
    await mesh.start(jokes)
    await mesh.start(jokes)
    one, two = mesh.instances
    [(_, store)] = one.resources.values.items()
    [(_, other)] = two.resources.values.items()
    await store.add("Only here.", "doors")
    assert len(await store.newest("doors", 10)) == 1
    assert await other.newest("doors", 10) == []
