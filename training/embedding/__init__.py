"""Stage `embedding`: train the network that embeds voices (audio/embedding.py), and fit what makes numbers of it."""
