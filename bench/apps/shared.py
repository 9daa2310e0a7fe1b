"""What every application under test answers with."""

BLOBS = {size: b"b" * size for size in (102_400, 921_600)}
ITEM = {
    "name": "a thing with a name",
    "description": "x" * 96,
    "price": 12.5,
    "tags": ["a", "b", "c"],
    "stock": 1234567,
}
"""With its id: about 200 bytes of JSON."""
EVENT, EVENT_S = "e" * 100, 0.05
"""A server-sent event, and the seconds from one to the next."""
