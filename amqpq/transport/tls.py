"""From the TLS options of an address to a context of Python's ssl module; shared by the transports."""

from __future__ import annotations

import ssl

from amqpq.errors import ConfigurationError
from amqpq.transport.url import Tls


def context(tls: Tls) -> ssl.SSLContext:
    """Read the files that the options name, before any connection is made.

    Raises:
        ConfigurationError: A file is missing, or is no PEM of the kind it should be.
    """
    try:
        made = ssl.create_default_context(cafile=tls.ca)
        if not tls.verify:
            made.check_hostname = False
            made.verify_mode = ssl.CERT_NONE
        if tls.certificate:
            made.load_cert_chain(tls.certificate, tls.key)
    except OSError as error:  # ssl.SSLError, for files that are no PEM, is one
        files = ", ".join(path for path in (tls.ca, tls.certificate, tls.key) if path)
        raise ConfigurationError(f"the TLS files cannot be used ({files}): {error}") from error
    return made
