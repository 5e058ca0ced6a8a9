"""Tiles for products and updates, tried on a device: python -m benchmarks.tune."""
