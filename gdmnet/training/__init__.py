"""Training: patches, augmentation, one loop for every objective, checkpoints and logs."""
