"""``python -m mesh`` is the `mesh` command."""

from mesh.cli.main import main

main()
