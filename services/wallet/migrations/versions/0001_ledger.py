"""The ledger, the balances, the idempotency keys and the daily claims."""

import sqlalchemy as sa
from alembic import op

revision = "wallet_0001"
down_revision = None
branch_labels = None
depends_on = None

MAX = 2**53 - 1


def upgrade() -> None:
    big_key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "wallet_accounts",
        sa.Column("user_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("balance", sa.BigInteger, nullable=False),
        sa.CheckConstraint(f"balance >= 0 AND balance <= {MAX}", name="wallet_accounts_balance"),
    )
    op.create_table(
        "wallet_entries",
        sa.Column("id", big_key, primary_key=True),
        sa.Column("user_id", sa.BigInteger, sa.ForeignKey("wallet_accounts.user_id"), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("balance", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("peer", sa.BigInteger),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("amount <> 0", name="wallet_entries_amount"),
        sqlite_autoincrement=True,
    )
    op.create_index("wallet_entries_user", "wallet_entries", ["user_id", "id"])
    op.create_table(
        "wallet_requests",
        sa.Column("user_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("entry_id", sa.BigInteger, sa.ForeignKey("wallet_entries.id")),
    )
    op.create_table(
        "wallet_claims",
        sa.Column("user_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("day", sa.Date, primary_key=True),
    )
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER wallet_entries_no_{verb.lower()} BEFORE {verb} ON wallet_entries "
                "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
            )
    else:
        op.execute(
            "CREATE FUNCTION wallet_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER wallet_entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON wallet_entries "
            "FOR EACH STATEMENT EXECUTE FUNCTION wallet_append_only()"
        )


def downgrade() -> None:
    for table in ("wallet_claims", "wallet_requests", "wallet_entries", "wallet_accounts"):
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION wallet_append_only()")
