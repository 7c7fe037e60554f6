"""The processes of `durable worker`: one that works, or several and who keeps them."""
