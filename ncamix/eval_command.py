"""The command that evaluates: `ncamix eval`."""
