"""The application under test, once for each contestant: the same routes, the same answers."""
