"""The errors that are fastnn's own."""


class DivergedError(ArithmeticError):
    """The loss or its gradient is no longer finite. The network keeps its state after the last finite step."""


class CheckpointError(ValueError):
    """A file does not hold a network: it is damaged, of another kind, or written by a newer version."""
