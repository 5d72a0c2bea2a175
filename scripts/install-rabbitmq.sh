#!/usr/bin/env bash
# Makes sure that RabbitMQ can be run here: does nothing where it is installed (or $AMQPQ_BROKER_URL names one), else
# installs the distribution's package. Debian and Ubuntu only.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "${AMQPQ_BROKER_URL:-}" ] || [ -n "${AMQPQ_RABBITMQ_ROOT:-}" ]; then
  exit 0
fi
if [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null; then
  exit 0
fi

scripts/apt-install.sh "the broker; amqpq runs private nodes of it" rabbitmq-server
echo "RabbitMQ is installed. The package may also run it as a service on port 5672; amqpq does not use that one." >&2
