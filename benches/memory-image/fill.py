#!/usr/bin/python3
"""Fills the memory of a Debian guest as a small, busy server's is filled, and then works on it.

Runs inside the guest. Says "filled" on its terminal when the memory is as it should be, waits for a line,
works, and says "worked". All content follows from the seed; addresses and times do not.
"""

import http.client
import json
import os
import random
import socket
import sqlite3
import sys
import tty

import numpy

RECORDS = 60_000  # in redis, about 400 bytes each
ROWS = 150_000  # in sqlite
ARRAY_BYTES = 24 << 20  # in numpy, for each of three kinds of content
CACHED_BYTES = 160 << 20  # of files, through the page cache
WORKED = 0.05  # of all records and rows, while the guest works

WORDS = (
    "amber anchor apron bacon barrel basket beacon blanket bottle branch bridge bucket butter candle "
    "carpet castle cellar cherry circle cotton cradle dagger desert dinner dragon engine fabric falcon "
    "feather filter finger forest garden ginger hammer harbor helmet honey island jacket kettle ladder "
    "lantern lemon letter magnet market meadow mirror needle orange pepper pillow planet pocket ribbon "
    "saddle silver spider summer temple ticket tunnel valley velvet walnut window winter yellow zipper"
).split()


def record(rng, number):
    return {
        "id": number,
        "name": " ".join(rng.choices(WORDS, k=2)).title(),
        "email": f"{rng.choice(WORDS)}.{rng.randrange(10_000)}@example.org",
        "address": {"street": f"{rng.randrange(1, 300)} {rng.choice(WORDS).title()} Street",
                    "postcode": f"{rng.randrange(100_000):05}"},
        "balance": round(rng.lognormvariate(5, 2), 2),
        "tags": rng.sample(WORDS, rng.randrange(1, 6)),
        "token": f"{rng.getrandbits(128):032x}",
        "notes": " ".join(rng.choices(WORDS, k=rng.randrange(5, 30))),
    }


def into_redis(rng, numbers):
    """Sets these records, through one connection, in redis' own protocol."""
    with socket.create_connection(("127.0.0.1", 6379)) as connection:
        answers = connection.makefile("rb")
        for number in numbers:
            key, value = f"customer:{number}".encode(), json.dumps(record(rng, number)).encode()
            connection.sendall(
                b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(key), key, len(value), value)
            )
            answer = answers.readline()
            if answer != b"+OK\r\n":
                raise RuntimeError(f"redis answers {answer!r}")


def order(rng, number):
    return (number, rng.randrange(RECORDS), rng.choice(WORDS), rng.randrange(1, 50),
            round(rng.lognormvariate(3, 1), 2), f"2026-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}")


def into_sqlite(rng, database):
    database.execute("PRAGMA cache_size = -65536")
    database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER, item TEXT,"
                     " quantity INTEGER, price REAL, day TEXT)")
    with database:
        database.executemany("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?)",
                             (order(rng, number) for number in range(ROWS)))
    database.execute("CREATE INDEX by_customer ON orders (customer)")
    database.execute("SELECT item, sum(quantity * price) FROM orders GROUP BY item").fetchall()


def arrays(seed):
    """What programs that compute hold: smooth fields, random numbers, sorted integers."""
    rng = numpy.random.default_rng(seed)
    side = int((ARRAY_BYTES // 8) ** 0.5)
    axis = numpy.linspace(0, 20, side)
    return [
        numpy.sin(axis)[:, None] * numpy.cos(axis)[None, :],
        rng.standard_normal(ARRAY_BYTES // 8),
        numpy.sort(rng.integers(0, 1 << 40, ARRAY_BYTES // 8)),
    ]


def through_page_cache():
    """Reads programs and libraries, as having used them does."""
    left = CACHED_BYTES
    for top in ("/usr/lib", "/usr/bin", "/usr/share"):
        for folder, folders, names in os.walk(top):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(folder, name)
                if left <= 0:
                    return
                if os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb") as file:
                        while chunk := file.read(1 << 20):
                            left -= len(chunk)


def from_nginx(times):
    for _ in range(times):
        connection = http.client.HTTPConnection("127.0.0.1")
        connection.request("GET", "/")
        connection.getresponse().read()
        connection.close()


def work(rng, database, held):
    """A while in the life of the server: some of everything changes."""
    into_redis(rng, rng.sample(range(RECORDS), int(RECORDS * WORKED)))
    with database:
        for number in rng.sample(range(ROWS), int(ROWS * WORKED)):
            database.execute("UPDATE orders SET quantity = quantity + 1 WHERE id = ?", (number,))
    held[0] *= 1.01
    from_nginx(50)


def main():
    seed = int(sys.argv[1])
    terminal = sys.stdin.fileno()
    tty.setraw(terminal)
    rng = random.Random(seed)
    into_redis(rng, range(RECORDS))
    database = sqlite3.connect("/var/lib/orders.db")
    into_sqlite(rng, database)
    held = arrays(seed)
    from_nginx(50)
    through_page_cache()
    os.sync()
    os.write(terminal, b"filled\r\n")
    os.read(terminal, 1)
    work(rng, database, held)
    os.write(terminal, b"worked\r\n")
    os.read(terminal, 1)


if __name__ == "__main__":
    main()
