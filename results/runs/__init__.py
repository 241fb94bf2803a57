"""Everything about one run, and few-shot runs compared episode by episode."""
