"""Simulator, local Kafka, demo and page generators. No other package imports it."""
