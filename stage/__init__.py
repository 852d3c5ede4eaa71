"""Web pages of a show: one for visitors, who speak, a screen for the audience, a gallery, and one for the artist."""
