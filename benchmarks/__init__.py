"""One command that puts amqpq beside what people use today, on one broker, in one run (`python -m benchmarks`)."""
