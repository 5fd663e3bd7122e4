"""Has schemathesis speak to the Unix socket that NOVACRON_SOCKET names, whatever its URL says; has it ask for
machines that there are; and keeps guests small.

A relay from TCP would do, too, but would let every user of the machine speak to the daemon as its administrator.
"""

import collections
import os
import re
import socket
import zlib

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

NAME = re.compile("[a-z0-9][a-z0-9._-]{0,62}")
# Those that run when the first request comes.
MACHINES = os.environ["NOVACRON_MACHINES"].split()
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


def known(text, names):
    """One of the names in place of three in four texts, always the same for a text: what is repeated is the same again."""
    digest = zlib.crc32(text.encode())
    return names[digest // 4 % len(names)] if names and digest % 4 else text


def identify(case):
    return case.operation.definition.raw.get("operationId")


OPERATIONS = collections.deque(maxlen=8)


def call_known_things(case):
    """A machine that there is, an operation that there was: of random names nothing is known but that they are unknown."""
    parameters = case.path_parameters or {}
    name, operation = parameters.get("name"), parameters.get("id")
    # Machines that are deleted as often as they are asked for would soon all be gone.
    is_spared = identify(case) == "machines.delete" and zlib.crc32(str(name).encode()) % 16 != 1
    if isinstance(name, str) and NAME.fullmatch(name) and not is_spared:
        parameters["name"] = known(name, MACHINES)
    if isinstance(operation, str) and operation.isalnum():
        parameters["id"] = known(operation, list(OPERATIONS))


def make_small(body):
    """A guest with all the memory that the description allows would take the host's, and its snapshots the disk."""
    if isinstance(body.get("name"), str) and NAME.fullmatch(body["name"]):
        body["name"] = known(body["name"], MACHINES)
    spec = body.setdefault("spec", {})
    if isinstance(spec, dict):
        for field, small in SMALL.items():
            if field not in spec or is_sound(spec, field):
                spec[field] = small


@schemathesis.hook
def before_call(context, case, kwargs):
    call_known_things(case)
    if identify(case) == "machines.create" and isinstance(case.body, dict):
        make_small(case.body)


@schemathesis.hook
def after_call(context, case, response):
    if response.status_code == 202 and response.content:
        OPERATIONS.append(response.json()["id"])
