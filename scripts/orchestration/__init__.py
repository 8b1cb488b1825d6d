"""Two coding agents take turns on one git branch: galph plans and reviews, ralph implements."""

__version__ = "0.1.0"
