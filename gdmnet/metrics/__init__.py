"""How near a prediction is to its reference; numpy and scikit-image only, no torch."""
