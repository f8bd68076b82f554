"""Filters for a type checker; mypy reads this, and fails where an error is not found."""

from __future__ import annotations

from datetime import datetime

import presenced


class OwnFilter(presenced.UserFilter, total=False):
    team: str | presenced.TextCondition
    level: float | presenced.NumberCondition


right: presenced.UserFilter = {
    "online": True,
    "status": {"$exists": True},
    "last_active": {"$gt": datetime.now()},
    "$or": [{"id": "john"}, {"id": {"$autocomplete": "ja"}}],
}
own: OwnFilter = {"team": {"$in": ["red", "blue"]}, "level": {"$gte": 3}, "online": True}
channel: presenced.ChannelFilter = {"members": {"$contains": "john"}, "member_count": {"$lt": 9}}

an_operator_that_the_field_lacks: presenced.UserFilter = {
    "online": {"$gt": True},  # type: ignore[typeddict-item]
}
an_operand_of_another_type: presenced.UserFilter = {
    "status": {"$in": "red"},  # a text is a sequence of texts, which Python does not tell apart
    "availability": 3,  # type: ignore[typeddict-item]
}
a_field_that_is_unknown: presenced.UserFilter = {
    "onlin": True,  # type: ignore[typeddict-unknown-key]
}
an_own_field_of_another_type: OwnFilter = {
    "team": 3,  # type: ignore[typeddict-item]
}


async def are_taken_as_they_are(service: presenced.Service, me: presenced.UserClient) -> None:
    for filter in (right, own):
        await service.users(filter, sort={"last_active": -1})
        await me.count(filter)
        service.watch_where(filter)
        await service.delete_where(filter)
    await service.channels(channel)
    await service.users({"team": "red", "$and": [{"n": {"$gt": 3}}]})
    await service.users(online=True)  # type: ignore[call-arg]


async def objects_have_their_types(url: str) -> None:
    async with presenced.connect(url, user="john") as me, me.connect() as connection:
        own: presenced.Me = await connection.update(status="x")
        print(own.availability_choice)
        watch: presenced.UserWatch = await me.watch(["jack"])
        user: presenced.User | None = watch["jack"]
        print(user)
        me.watch_all()  # type: ignore[attr-defined]
    presenced.connect(url, audit="often")  # type: ignore[call-overload]
    async with presenced.connect(url) as service, service.lease("gw") as lease:
        seat: presenced.Seat = await lease.connect("john")
        async with seat, lease.connect("jack") as other:
            print(other.user_id)
        users: list[presenced.User] = await service.users()
        print(users)
        async for change in service.watch_all():  # type: ignore[attr-defined]
            print(change)  # It is not begun yet.
        async with service.watch_all() as everyone:
            async for change in everyone:
                if change.kind == "cam":  # type: ignore[comparison-overlap]
                    print(change)
                print(change.user.status)  # type: ignore[union-attr]
                if change.kind == "came" or change.kind == "status":
                    print(change.id.upper(), change.user.status)
                elif change.kind == "gone":
                    nobody: None = change.user
                    print(change.id.upper(), nobody)
                elif change.kind == "state":
                    print(change.state)
                    change.id.upper()  # type: ignore[attr-defined]
