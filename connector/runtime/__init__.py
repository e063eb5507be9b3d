"""The running worker: shards, polling, supervision and health."""
