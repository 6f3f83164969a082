"""Every figure of the notebooks. One style, colour-blind safe, intervals always drawn, legible at half a page."""
