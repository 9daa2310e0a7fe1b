"""Run by alembic; ``python -m services.wallet.migrate`` starts it."""

from services.schema import run_migrations
from services.wallet.models import SCHEMA

run_migrations(SCHEMA)
