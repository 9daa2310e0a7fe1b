"""Short notes, kept as long as the process lives: an ordinary FastAPI application that knows nothing of the mesh."""

from __future__ import annotations

from itertools import count
from typing import Annotated

from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, Field

app = FastAPI(title="notes", description="short notes, in an ordinary FastAPI application")


class NewNote(BaseModel):
    text: Annotated[str, Field(min_length=1, max_length=500)]


class Note(NewNote):
    id: int


_notes: dict[int, Note] = {}
_numbers = count(1)


@app.get("/notes", tags=["notes"])
async def list_notes() -> list[Note]:
    """All of them, the oldest first."""
    return list(_notes.values())


@app.post("/notes", status_code=201, tags=["notes"])
async def add_note(note: NewNote, response: Response) -> Note:
    """Keep one more."""
    made = Note(id=next(_numbers), text=note.text)
    _notes[made.id] = made
    response.headers["location"] = f"/notes/{made.id}"
    return made


@app.get("/notes/{note_id}", tags=["notes"])
async def get_note(note_id: int) -> Note:
    """One by its number."""
    if note_id not in _notes:
        raise HTTPException(404, f"there is no note {note_id}")
    return _notes[note_id]
