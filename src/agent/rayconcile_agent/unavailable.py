"""Why a group cannot be had."""


class Unavailable(Exception):
    """A group cannot be had; `kind` is the outcome this gives it."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind
