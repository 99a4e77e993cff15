"""The forms of the net that ``compare.py --train`` compares, as overrides. To add one, add a row.

A form's settings override the command line. Its learning rate is where the search for one starts.
Sets may share forms: one of the same name has the same settings.
"""

from collections.abc import Iterable

TOWERS = ["variant=paper", "towers=2"]

# "No regularization of any kind was employed" for figure 1, and rates were "chosen independently".
UNREGULARIZED = [
    *TOWERS,
    *("net.dropout=[0, 0, 0]", "optimizer.weight_decay=0", "schedule.name=constant"),
    *("data.mirror=false", "data.test_views=1"),  # trained without mirror images, so tested without
]

MIRRORED = ["data.mirror=true", "data.test_views=2"]
FEW_IMAGES = [
    *TOWERS,
    *MIRRORED,
    *("data.train_images=2000", "epochs=40", "optimizer.learning_rate=0.015"),
]

FORMS: dict[str, dict[str, list[str]]] = {
    # Section 3.2: the net, its dense form, and the control with half of conv1-conv4.
    "towers": {
        "two towers": TOWERS,
        "single stream": ["variant=paper", "towers=1", "optimizer.learning_rate=0.01"],
        "half the kernels": ["variant=half", "towers=1", "optimizer.learning_rate=0.01"],
    },
    # Section 3.1 and figure 1.
    "activations": {
        "ReLU": [*UNREGULARIZED, "net.activation=relu", "optimizer.learning_rate=0.003"],
        "tanh": [*UNREGULARIZED, "net.activation=tanh", "optimizer.learning_rate=0.002"],
    },
    # Sections 3.3 and 3.4: one change at a time.
    "ablations": {
        "two towers": TOWERS,
        "no normalisation": [*TOWERS, "net.local_response_norm=false"],
        "pooling without overlap": [*TOWERS, "net.pool=2"],
    },
    # Section 4: what keeps a net from overfitting, where it can: many epochs of few images.
    "overfitting": {
        "dropout": FEW_IMAGES,
        "no dropout": [*FEW_IMAGES, "net.dropout=[0, 0, 0]"],
        "no mirror images": [*FEW_IMAGES, "data.mirror=false", "data.test_views=1"],
    },
    # Section 3.2 and figure 2: the layers where towers meet. They always meet at fc8.
    "meetings": {
        "two towers": TOWERS,
        "not at conv3": [*TOWERS, "net.meet=[fc6, fc7]", "optimizer.learning_rate=0.015"],
        "nowhere but at fc8": [*TOWERS, "net.meet=[]", "optimizer.learning_rate=0.015"],
    },
    # The net of 2012, that of Krizhevsky 2014, and the one that the D2L chapter teaches.
    "nets": {
        "two towers": TOWERS,
        "2014": ["variant=torchvision", "towers=1", "optimizer.learning_rate=0.01"],
        "D2L": ["variant=d2l", "towers=1", "optimizer.learning_rate=0.01"],
    },
}


def forms_of(sets: Iterable[str]) -> dict[str, list[str]]:
    """All forms of some sets; those that sets share stand there once."""
    return {form: settings for name in sets for form, settings in FORMS[name].items()}
