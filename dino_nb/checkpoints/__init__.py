"""Checkpoint files: ours, the published ones in both directions, and downloading the published ones."""
