def square(payload: dict[str, int]) -> dict[str, int]:
    return {"id": payload["id"], "square": payload["id"] ** 2}
