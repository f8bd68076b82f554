"""Answers that are too large for one message of NATS."""

from __future__ import annotations

from conftest import World


async def test_who_are_too_many_for_one_answer_are_asked_for_by_several(bare: World) -> None:
    bare.config = bare.folder / "nats.conf"
    store = bare.folder / "store"
    bare.config.write_text(f'jetstream {{ store_dir: "{store}" }}\nmax_payload: 32KB\n')
    bare.start_nats()
    bare.start_daemon()
    await bare.ready()
    service = await bare.service()
    ids = [f"u{number:02}" for number in range(20)]
    for id in ids:
        await service.update(id, text="x" * 4900)
    assert list(await service.get_many(ids)) == ids
    assert [user.id for user in await service.users()] == ids
    assert [user.id for user in await service.users(limit=15)] == ids[:15]
    async with service.watch(ids) as watch, service.watch_all() as everyone:
        assert set(watch) == set(everyone) == set(ids)
    async with service.watch_where({"online": False}) as found:
        assert set(found) == set(ids)
