"""Has schemathesis speak to the Unix socket that NOVACRON_SOCKET names, whatever its URL says; and keeps guests small.

A relay from TCP would do, too, but would let every user of the machine speak to the daemon as its administrator.
"""

import os
import socket

import schemathesis
import urllib3.connection


def connect(connection):
    """What urllib3 calls for a new connection, in place of TCP's."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if isinstance(connection.timeout, (int, float)):
        stream.settimeout(connection.timeout)
    stream.connect(os.environ["NOVACRON_SOCKET"])
    return stream


urllib3.connection.HTTPConnection._new_conn = connect

SMALL = {
    "memory_bytes": 16 << 20,
    "cpus": 2,
    "boot": {"type": "oracle", "options": "fill=4M working_set=1M rate=200"},
}


def is_sound(spec, field):
    """Whether a field is there and as it may be. What is wrong stays as it is: it is there to be refused."""
    value = spec.get(field)
    if field == "memory_bytes":
        return type(value) is int and 8 << 20 <= value <= 1 << 45 and value % 4096 == 0
    if field == "cpus":
        return type(value) is int and 1 <= value <= 64
    if not isinstance(value, dict) or value.get("type") != "oracle":
        return False
    options = value.get("options", "")
    is_text = isinstance(options, str) and len(options) <= 1024 and "\0" not in options
    return is_text and value.keys() <= {"type", "options"}


@schemathesis.hook
def before_call(context, case, kwargs):
    """A guest with all the memory that the description allows would take the host's, and its snapshots the disk."""
    if case.operation.definition.raw.get("operationId") != "machines.create":
        return
    if not isinstance(case.body, dict):
        return
    spec = case.body.setdefault("spec", {})
    if isinstance(spec, dict):
        for field, small in SMALL.items():
            if field not in spec or is_sound(spec, field):
                spec[field] = small
