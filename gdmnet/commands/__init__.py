"""The console commands; each has build_parser(), main(argv) and run(...) for Python users."""
