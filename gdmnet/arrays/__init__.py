"""Arrays of numbers and what is done to them: no files, no torch."""
