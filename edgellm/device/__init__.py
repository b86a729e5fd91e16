"""Devices: how much memory they have, and how much a model takes of it."""
