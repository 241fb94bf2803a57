"""Pure functions of arrays: coefficients with intervals."""
