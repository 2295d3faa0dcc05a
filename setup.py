# SPDX-License-Identifier: MIT
"""Builds the extension module; everything else is in pyproject.toml."""

from setuptools import setup

setup(
    cffi_modules=["bindings/python/manifuse/_native/build.py:ffibuilder"],
    # One wheel for all CPython versions from 3.9 on: the glue keeps to the stable interface of that version.
    options={"bdist_wheel": {"py_limited_api": "cp39"}},
)
