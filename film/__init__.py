"""Films in which a voice moves its image."""
