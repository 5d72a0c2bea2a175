"""The command line: parses arguments, prints, and chooses exit codes. All it does is call the layers below.

A command module loads only when its command is used, so `amqpq --help` stays as light as `import amqpq`.
"""
