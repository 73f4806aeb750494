"""Envoy's messages for ext_authz, from a directory of their own: their package has old messages of other projects, too."""

import pathlib
import sys

import envoy
import google

PLACE = pathlib.Path(sys.prefix) / "xds"
# Behind all other packages, and within those of the same names.
sys.path.append(str(PLACE))
for package in (envoy, google):
    package.__path__ = [*package.__path__, str(PLACE / package.__name__)]

from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2 as auth

__all__ = ["auth", "base_pb2"]
