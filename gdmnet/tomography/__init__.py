"""Axial tomography on numpy and scipy: projection, reconstruction, noise, data consistency."""
