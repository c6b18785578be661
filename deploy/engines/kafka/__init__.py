"""A broker of Kafka, for topics of events."""
