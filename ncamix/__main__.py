"""`python -m ncamix`, for launchers that start modules."""

from ncamix.cli import main

main()
