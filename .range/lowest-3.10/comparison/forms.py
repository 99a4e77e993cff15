"""The forms of the net that ``compare.py --train`` compares, as overrides. To add one, add a row.

A form's settings override the command line. A form may set its own learning rate.
"""

TOWERS = ["variant=paper", "towers=2"]

# "No regularization of any kind was employed" for figure 1, and rates were "chosen independently".
UNREGULARIZED = [
    *TOWERS,
    *("net.dropout=[0, 0, 0]", "optimizer.weight_decay=0", "schedule.name=constant"),
    *("data.mirror=false", "data.test_views=1"),  # trained without mirror images, so tested without
]

FORMS: dict[str, dict[str, list[str]]] = {
    # Section 3.2: the net, its dense form, and the control with half of conv1-conv4. The latter two
    # fall to chance at the default job's rate of 0.03. Of 0.01, 0.015 and 0.02 these rates were the
    # best after half an epoch.
    "towers": {
        "two towers": TOWERS,
        "single stream": ["variant=paper", "towers=1", "optimizer.learning_rate=0.02"],
        "half the kernels": ["variant=half", "towers=1", "optimizer.learning_rate=0.01"],
    },
    # Section 3.1 and figure 1. Of the rates 0.001, 0.002 and, for ReLU, 0.003, these learnt fastest
    # in 120 steps of 128 images at 64 px. In 30 steps ReLU was slower at 0.005 and 0.02; tanh at
    # 0.01 fell to chance within 60 steps.
    "activations": {
        "ReLU": [*UNREGULARIZED, "net.activation=relu", "optimizer.learning_rate=0.003"],
        "tanh": [*UNREGULARIZED, "net.activation=tanh", "optimizer.learning_rate=0.002"],
    },
    # Sections 3.1 to 4.2: one change at a time.
    "ablations": {
        "the net": TOWERS,
        "no normalisation": [*TOWERS, "net.local_response_norm=false"],
        "pooling without overlap": [*TOWERS, "net.pool=2"],
        "tanh": [*TOWERS, "net.activation=tanh", "optimizer.learning_rate=0.003"],
        "no dropout": [*TOWERS, "net.dropout=[0, 0, 0]"],
        "towers that never meet": [*TOWERS, "net.meet=[]"],
    },
    # Section 3.2 and figure 2: the layers where towers meet, one by one. They always meet at fc8.
    "meetings": {
        "conv3, fc6 and fc7": TOWERS,
        "not at conv3": [*TOWERS, "net.meet=[fc6, fc7]"],
        "not at fc6": [*TOWERS, "net.meet=[conv3, fc7]"],
        "not at fc7": [*TOWERS, "net.meet=[conv3, fc6]"],
        "nowhere but at fc8": [*TOWERS, "net.meet=[]"],
    },
}
