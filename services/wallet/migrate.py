"""``python -m services.wallet.migrate``: brings the tables up to date; needs the database and no mesh."""

from services.schema import main
from services.wallet.config import load_settings
from services.wallet.models import SCHEMA

if __name__ == "__main__":
    main(load_settings, SCHEMA)
