"""Access to the machine: processes and nodes, signals, claims, files and their contents.

No module in this package knows what a run is. Import the modules by name.
"""
