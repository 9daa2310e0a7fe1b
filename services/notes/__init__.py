"""A plain FastAPI application; `mesh serve services.notes.app:app --name notes` puts it on the mesh."""
