"""Finds the program that this package has installed."""

import os
import sys
import sysconfig


def find_bin():
    """Path of the program.

    Raises FileNotFoundError if it is in none of the places where pip puts programs.
    """
    # The environment of this interpreter, the user's, and the directory of `pip install --target`.
    package = os.path.dirname(os.path.abspath(__file__))
    places = [
        sysconfig.get_path("scripts"),
        sysconfig.get_path("scripts", vars={"base": sys.base_prefix}),
        sysconfig.get_path("scripts", scheme="posix_user"),
        os.path.join(os.path.dirname(package), "bin"),
    ]
    # `pip install --prefix`: lib/python3.x/site-packages is three directories below it.
    places.append(os.path.join(os.path.dirname(package), "..", "..", "..", "bin"))
    for place in places:
        path = os.path.join(place, "bearward")
        if os.path.isfile(path):
            return os.path.abspath(path)
    raise FileNotFoundError(f"no program `bearward` in any of {', '.join(places)}")
