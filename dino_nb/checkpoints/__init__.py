"""Checkpoint files: ours, the published ones in both directions, and where the published ones are to be had."""
