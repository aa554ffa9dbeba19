"""Who computes: see select.py."""
