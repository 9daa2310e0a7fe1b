"""One file per change, each naming the one before."""
