"""The latent diffusion model, its samplers and its checkpoints.

Module paths and state-dict keys are those that CompVis published; the code is our own.
"""
