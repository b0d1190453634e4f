"""simsmoe: train sparse mixture-of-experts language models whose experts stay different."""

__version__ = "0.1.0"
