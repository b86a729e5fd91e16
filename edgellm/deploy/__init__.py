"""Bundles that install without network, and the way to another machine."""
