"""How titles stand on the shelf."""


def sort_key(title: str) -> str:
    """Return what a title is sorted by: lower case, without a leading article."""
    return title
