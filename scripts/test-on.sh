#!/usr/bin/env bash
# Runs tests on another version of RabbitMQ.
# Usage: scripts/test-on.sh SUITE PYTEST_ARGUMENT...      SUITE as for scripts/rabbitmq-from-debian.sh
set -euo pipefail
cd "$(dirname "$0")/.."

suite=$1
shift
root=$(scripts/rabbitmq-from-debian.sh "$suite")
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo) # a chroot is entered by root only
echo "Tests on the RabbitMQ of Debian $suite:" >&2
"${as_root[@]}" env -u AMQPQ_BROKER_URL AMQPQ_RABBITMQ_ROOT="$root" CI=true .venv/bin/python -m pytest "$@"
