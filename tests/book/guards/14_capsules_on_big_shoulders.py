assert primary_length["default"] < 0.05 < primary_length["kept in size"]
assert max(counts["**parameters**"]) < 3e6
assert time_ratio > 1 or chapter.device == "cuda"
assert lengths.shape == (2, 10)
assert all(images.float().mean() > 0.7 for images in correct.values())
assert changed["training"] > 10 * changed["evaluation"]
