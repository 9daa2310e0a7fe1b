"""An append-only ledger of whole amounts: credit, debit, transfer, once a day."""

from services.wallet.service import service

__all__ = ["service"]
