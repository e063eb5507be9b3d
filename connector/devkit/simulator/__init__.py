"""The fake upstream and the local Kafka that the demo and the tests run on."""
