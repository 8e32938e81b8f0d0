"""Networks that are trained: the generator, and the critic of the objective gan."""
