"""The commands around a deploy: what fits, what is still needed, what moves on."""
