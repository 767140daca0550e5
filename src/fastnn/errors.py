"""The errors that are fastnn's own."""


class DivergedError(ArithmeticError):
    """The loss or its gradient is no longer finite. The network keeps its state after the last finite step."""
