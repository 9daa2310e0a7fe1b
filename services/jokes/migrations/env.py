"""Run by alembic; ``python -m services.jokes.migrate`` starts it."""

from services.jokes.models import SCHEMA
from services.schema import run_migrations

run_migrations(SCHEMA)
