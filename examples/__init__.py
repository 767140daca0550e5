"""The experiments of the theory that fastnn is built on, one script each: ``python -m examples.<name> --help``."""
