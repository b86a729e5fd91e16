"""Retrieval from a person's own documents: reading, cutting, searching."""

__all__: list[str] = []
