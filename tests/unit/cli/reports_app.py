"""A workflow for schedules."""

from durable import workflow


@workflow(name="cli_report")
async def report(team: str = "all") -> str:
    return team
