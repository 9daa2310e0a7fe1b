"""A service mesh on NATS: services announce themselves, a thin gateway serves them."""
