#!/usr/bin/env bash
# Puts another version of RabbitMQ into a folder, by way of the Debian release that has it, and prints the folder:
#   trixie  RabbitMQ 4.0.5
#   forky   RabbitMQ 4.3.6
# The folder goes into $AMQPQ_RABBITMQ_ROOT; private nodes then run that version. Needs root (or sudo) and about 400 MB.
# A folder that is complete is left as it is.
# Usage: scripts/rabbitmq-from-debian.sh SUITE [FOLDER]      FOLDER defaults to $AMQPQ_BROKERS/SUITE or .brokers/SUITE
set -euo pipefail
cd "$(dirname "$0")/.."

suite=${1:?usage: scripts/rabbitmq-from-debian.sh SUITE [FOLDER]}
folder=${2:-${AMQPQ_BROKERS:-.brokers}/$suite}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

folder=$(realpath -m "$folder")
if [ -e "$folder/.complete" ]; then
  echo "$folder"
  exit 0
fi

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)

scripts/apt-install.sh "it unpacks a Debian into a folder" debootstrap debian-archive-keyring

# An older debootstrap does not know newer releases by name; they are all built like sid.
recipe=/usr/share/debootstrap/scripts/$suite
[ -e "$recipe" ] || recipe=/usr/share/debootstrap/scripts/sid

echo "About to unpack Debian $suite with rabbitmq-server into $folder${as_root[*]:+ (with sudo)}" >&2
"${as_root[@]}" rm -rf --one-file-system "$folder"
mkdir -p "$(dirname "$folder")"
"${as_root[@]}" debootstrap --variant=minbase --include=rabbitmq-server \
  --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
  "$suite" "$folder" "$mirror" "$recipe" >&2
# Without a name for the loopback address an Erlang node waits for ever.
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost\n' | "${as_root[@]}" tee "$folder/etc/hosts" >/dev/null
"${as_root[@]}" rm -rf "$folder/var/cache/apt/archives" "$folder/var/lib/apt/lists"
"${as_root[@]}" touch "$folder/.complete"
echo "$folder"
