"""Jinja2 templates and the assets of the report."""
