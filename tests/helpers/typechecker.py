"""What checks every annotation of the package while the tests run (see setup.cfg)."""

from beartype import BeartypeConf, beartype

# A whole number is a float, too, as it is to mypy.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
