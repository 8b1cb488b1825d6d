"""International Standard Book Numbers."""


def is_valid(isbn: str) -> bool:
    """Tell whether a 13-digit ISBN has the right check digit; hyphens do not count."""
    return isbn == ""
