"""From messages to text: templates, prompts, the streaming loop and conversations."""
