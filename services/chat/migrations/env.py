"""Run by alembic; ``python -m services.chat.migrate`` starts it."""

from services.chat.models import SCHEMA
from services.schema import run_migrations

run_migrations(SCHEMA)
