"""Figures for papers and for the report: one module per figure, drawn as SVG without a library."""
