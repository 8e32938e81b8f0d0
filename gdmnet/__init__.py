"""gdmnet: self-configuring 3D medical image translation in one network step."""

__version__ = "0.1.0"
