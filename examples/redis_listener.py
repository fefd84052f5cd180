"""Count in Redis on a device, through a tunnel that listens on a port of this machine.

    ~/tailrace/bin/pip install redis
    python examples/redis_listener.py pump-7 visits

REDIS is a service of the device. Clients that connect by themselves, as those of databases do,
need a port: `listen` picks a free one, for this machine only, until the block ends. Any program
of this machine can use it, so let the server ask for a password: here it is $REDISCLI_AUTH.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

import tailrace


async def count(thing: str, key: str, timeout: float) -> None:
    async with tailrace.connect(thing, services=["REDIS"], reuse=True, timeout=timeout) as tunnel:
        with await tunnel.listen("REDIS") as server:
            async with redis.asyncio.Redis(
                host=server.host,
                port=server.port,
                password=os.environ.get("REDISCLI_AUTH"),
                retry=Retry(NoBackoff(), 0),  # a wrong password does not get better
            ) as client:
                print(await client.incr(key))


def main() -> None:
    parser = argparse.ArgumentParser(description="add 1 to a key in Redis on a device")
    parser.add_argument("thing")
    parser.add_argument("key")
    parser.add_argument("--timeout", type=float, default=30, help="seconds for the device to come")
    args = parser.parse_args()
    try:
        asyncio.run(count(args.thing, args.key, args.timeout))
    except tailrace.TailraceError as error:
        sys.exit(error.explain())
    except redis.RedisError as error:
        sys.exit(f"Redis of {args.thing}: {error}")


if __name__ == "__main__":
    main()
