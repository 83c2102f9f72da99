"""The adapt role as it is wired, without a broker."""

import asyncio
from pathlib import Path
from typing import Any

from headrace.streams.adapt.role import TABLE, make_role
from headrace.streams.process import Readiness
from headrace.streams.settings import Settings

NEVER_ASKED: Any = None


def test_a_partition_has_been_read_where_a_state_of_its_users_is(tmp_path: Path) -> None:
    async def check() -> None:
        role = make_role(Settings(data_dir=tmp_path), NEVER_ASKED, Readiness())
        role.app.tables[TABLE].data.data[1, b"ann"] = b"state"
        has_read = role.app.transport.options.has_read
        assert [has_read(partition) for partition in range(3)] == [False, True, False]
        for work in role.work:
            work.close()  # it never ran

    asyncio.run(check())
