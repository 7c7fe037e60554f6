"""The smallest durable program: one workflow, one activity, one SQLite file.

Run it twice: the second time it finds the run done, and nothing runs again.
"""

import asyncio

from durable import Engine, activity, workflow


@activity
async def greeting(name: str) -> str:
    """Do something in the world; here, only print."""
    print("(the activity runs)")
    return f"hello {name}"


@workflow
async def greet(name: str) -> str:
    """Decide what happens when."""
    return await greeting(name)


async def main() -> None:
    """Start the run, or find it started, and wait for its result."""
    async with Engine("sqlite:///hello.db") as engine:
        run = await engine.start(greet("world"), id="hello", request_id="hello")
        print(await run.result())


if __name__ == "__main__":
    asyncio.run(main())
