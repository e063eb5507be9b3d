"""Simulated upstream, local Kafka, demo and reference pages, for development only.

The extra `[demo]` installs the packages that this one needs. No other package imports it.
"""
