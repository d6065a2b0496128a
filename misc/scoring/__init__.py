"""Captions against references: tokenizer, BLEU, METEOR, ROUGE-L, CIDEr, SPICE, diversity, and results files."""
