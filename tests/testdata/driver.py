"""A client by asyncpg, which has a protocol of its own. Arguments: host, port."""

import asyncio
import sys

import asyncpg


async def main(host, port):
    conn = await asyncpg.connect(host=host, port=port, user="visitor", password="secret", database="shop@mix", ssl=False)
    assert getattr(conn.get_settings(), "pg0.mix") == "mix"
    assert await conn.fetchval("select $1::int + $2::int", 40, 2) == 42
    assert await conn.fetchval("select $1::text[]", ["ä", "ö"]) == ["ä", "ö"]

    notices = []
    conn.add_log_listener(lambda _, message: notices.append(message.message))
    await conn.execute("set pg0.label = notice")
    statement = await conn.prepare("select price from products where id = $1")
    for number in (1, 2):
        await statement.fetchval(number)
    await conn.execute("set pg0.label = off")
    await asyncio.sleep(0)  # listeners are called by the loop
    assert len(notices) == 2 and notices[0].startswith("pg0: price from public.products"), notices

    rows = [(n, "x" * n) for n in range(2000)]
    await conn.execute("create temp table t (n int, text text)")
    await conn.copy_records_to_table("t", records=rows)
    copied = bytearray()

    async def take(data):
        copied.extend(data)

    await conn.copy_from_table("t", output=take)
    assert copied.count(b"\n") == len(rows) and len(copied) > sum(len(text) for _, text in rows)

    async with conn.transaction():
        cursor = await conn.cursor("select n from t order by n")
        assert [r["n"] for r in await cursor.fetch(3)] == [0, 1, 2]

    try:
        await conn.execute("select pg_sleep(60)", timeout=0.2)
        raise AssertionError("it was not cancelled")
    except asyncio.TimeoutError:
        pass
    assert await conn.fetchval("select 1") == 1
    await conn.close()

    try:
        await asyncpg.connect(host=host, port=port, user="visitor", password="wrong", database="shop", ssl=False)
        raise AssertionError("a wrong password opens the door")
    except asyncpg.InvalidPasswordError:
        pass


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
