"""Sequential recommendation with language models: two papers, reproduced in notebooks."""

__version__ = "0.1.0"
