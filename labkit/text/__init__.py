"""Tokens to features: corpora, GPT-2 with any activation, its training, and HellaSwag."""
