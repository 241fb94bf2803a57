"""What setup.cfg cannot say: packages are found, and a wheel holds ``conf/`` in the package."""

from setuptools import find_packages, setup

PACKAGES = find_packages(include=["ssl_transfer*", "launchers*", "results*"])

setup(packages=[*PACKAGES, "ssl_transfer.conf"], package_dir={"ssl_transfer.conf": "conf"})
