"""Images, datasets and cases: SimpleITK and blosc2 at the edge."""
