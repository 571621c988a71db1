"""Everything that is drawn from a recorded run: the live player, heatmaps and their shared look.

Reads traces (`dvl_core.trace`, plain data) and nothing else: no torch, no model, no gradio.
"""
