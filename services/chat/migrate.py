"""``python -m services.chat.migrate``: brings the tables up to date; needs the database and no mesh."""

from services.chat.config import load_settings
from services.chat.models import SCHEMA
from services.schema import main

if __name__ == "__main__":
    main(load_settings, SCHEMA)
