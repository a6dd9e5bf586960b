"""The one way a source says that it has nothing to give, so that the next source can be tried."""


class UnavailableError(Exception):
    """A source cannot give its files now; the message says why and what would help."""
