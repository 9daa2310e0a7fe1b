"""The jokes, and a few to begin with."""

import sqlalchemy as sa
from alembic import op

revision = "jokes_0001"
down_revision = None
branch_labels = None
depends_on = None

SEED = (
    ("mesh", "A request walks into a bar. Nobody is listening, and it knows so at once."),
    ("mesh", "I would tell you a UDP joke, but the mesh would ask for the reply."),
    ("mesh", "Why did the gateway forget its routes? It never had to learn them by heart."),
    ("databases", "Two tables meet. A query asks: may I join you?"),
    ("programming", "There are two hard problems: naming things, cache invalidation, and off-by-one errors."),
)


def upgrade() -> None:
    table = op.create_table(
        "jokes",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
    )
    op.create_index("jokes_category", "jokes", ["category", "id"])
    op.bulk_insert(table, [{"category": category, "text": text} for category, text in SEED])


def downgrade() -> None:
    op.drop_table("jokes")
