"""What the machine offers: processes and nodes, signals, claims, files and what they held.

Nothing in here knows what a run is. Import its modules by name.
"""
