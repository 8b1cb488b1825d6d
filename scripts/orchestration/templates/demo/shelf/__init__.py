"""A small bookshelf."""
