"""How well cheap scores agree with a target score."""
