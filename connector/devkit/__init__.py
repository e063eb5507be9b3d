"""Simulated upstream, local Kafka, demo and reference pages, for development only.

The extra `[demo]` installs what this package needs. No other package imports it.
"""
