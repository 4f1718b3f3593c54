"""Making, checking, repairing and exporting a COCODIR."""
