"""ncamix: declarative curricula and exact data mixtures for language-model training."""

__version__ = "0.1.0"
