"""A shop behind FastAPI: `uvicorn fastapi_shop.app:app`, from the folder above."""
