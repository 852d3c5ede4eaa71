"""The latent diffusion model: module paths and state-dict keys as published by CompVis, the code our own."""
