"""Captioned procedural art: scenes drawn by seed, their pictures and their captions."""
