"""Exports: writing them, loading them, and encoding images and texts with the loaded towers."""
