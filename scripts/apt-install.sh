#!/usr/bin/env bash
# Installs Debian packages, after saying which and why; with sudo where the caller is not root. On other systems it says
# what is missing and fails.
# Usage: scripts/apt-install.sh WHY PACKAGE...
set -euo pipefail

why=$1
shift

missing=()
for package in "$@"; do
  if ! dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$'; then
    missing+=("$package")
  fi
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "missing: ${missing[*]} ($why). This is no Debian or Ubuntu: please install it by your system's own means." >&2
  exit 1
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "missing: ${missing[*]} ($why). As root, run: apt-get install -y ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "About to install with ${as_root[*]:+sudo }apt-get: ${missing[*]} ($why)" >&2
"${as_root[@]}" apt-get update -qq >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
