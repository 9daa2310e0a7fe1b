"""Run by alembic; ``python -m services.users.migrate`` starts it."""

from services.schema import run_migrations
from services.users.models import SCHEMA

run_migrations(SCHEMA)
