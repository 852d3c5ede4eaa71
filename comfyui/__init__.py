"""Nodes for ComfyUI that make the start noise of any model from a voice; docs/comfyui.md.

ComfyUI loads this folder by its path, under a name of its choice, so modules here import each other relatively.
"""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
