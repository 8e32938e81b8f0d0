"""Networks that are trained: the generator."""
