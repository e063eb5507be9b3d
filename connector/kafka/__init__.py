"""Kafka: clients, topics, Avro, the assignment of shards, and exactly-once publishing."""
