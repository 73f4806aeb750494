"""More connections than descriptors."""

import asyncio

import measure_hostile


def test_a_process_without_descriptors_survives_does_not_spin_and_recovers():
    async def run():
        async with measure_hostile.Model() as model:
            await measure_hostile.starved(model)
        await measure_hostile.starved_by_streams()

    asyncio.run(run())
    assert measure_hostile.FAULTS == []
