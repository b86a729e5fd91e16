"""Quantization that is steered by what a model does with real text."""
