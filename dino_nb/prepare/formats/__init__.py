"""Annotation formats: one reader a file, and the writers."""
