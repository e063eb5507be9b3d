"""Kafka: settings, topics, Avro, the group that assigns shards, and the shard that publishes exactly once."""
