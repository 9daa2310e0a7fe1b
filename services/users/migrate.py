"""``python -m services.users.migrate``: brings the tables up to date; needs the database and no mesh."""

from services.schema import main
from services.users.config import load_settings
from services.users.models import SCHEMA

if __name__ == "__main__":
    main(load_settings, SCHEMA)
