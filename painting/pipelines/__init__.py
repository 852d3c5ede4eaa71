"""Text-to-image pipelines of the library diffusers, an optional package, as painters."""
