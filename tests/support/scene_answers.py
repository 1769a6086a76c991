"""An independent reading of a question about a scene: its answer from the objects and the question's words."""

from __future__ import annotations

from locus.scenes.questions import SceneQuestion
from locus.scenes.scene import Scene, SceneObject
from locus.scenes.source import ATTRIBUTES


def named(scene: Scene, text: str) -> list[SceneObject]:
    """Objects that have every shape, colour and pattern word of the text."""
    words = text.replace("?", "").replace("objects", "").split()
    return [
        item
        for item in scene.objects
        if all(word in item.attributes for word in words if any(word in group for group in ATTRIBUTES))
    ]


def derived(scene: Scene, question: SceneQuestion) -> str:
    """The answer from the text and the objects' boxes alone."""
    text = question.text
    if text.startswith("How many"):
        return str(len(named(scene, text)))
    if text.startswith("Is there"):
        return "yes" if named(scene, text) else "no"
    if text.startswith("Is the"):
        first, second = text.removeprefix("Is the ").split(" or ")
        (one,), (other,) = named(scene, first), named(scene, second.partition(" the ")[2])
        across = "left" in text
        a, b = ((item.box.x1 + item.box.x2, item.box.y1 + item.box.y2)[0 if across else 1] for item in (one, other))
        return (("left", "right") if across else ("above", "below"))[int(a > b)]
    (item,) = named(scene, text)
    asked_for = {"What colour": item.colour, "What shape": item.shape, "What pattern": item.pattern}
    return next((word for start, word in asked_for.items() if text.startswith(start)), "")
