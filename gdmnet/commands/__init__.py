"""The console commands, a module each: build_parser() and main(argv)."""
