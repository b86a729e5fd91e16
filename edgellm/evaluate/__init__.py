"""What a model's predictions are worth: texts, perplexity, and the distance to another model."""
