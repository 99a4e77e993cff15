"""The page of a plan: its numbers are the predictions, it is whole, and its dials find the best."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs

from planning.job import Job
from planning.page import BANDWIDTHS, LATENCIES, data, machines, page, shown, write_page
from planning.prediction import predict
from planning.sweep import Space
from tests.planning.machines import PAPER, make_links, make_machine

HOW = ["--config", "configs/compare.yaml"]
MACHINE = make_machine(
    4, within=make_links(2e10, 2e-5), between=make_links(3e9, 5e-5), memory=4e9, hidden=0.5
)
SPACE = Space(Job(PAPER, 100), MACHINE, 8)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "plan.html"
    write_page(SPACE, HOW, path)
    return path


@pytest.fixture(scope="module")
def own_text(written):
    """The page without the drawing library."""
    return written.read_text().replace(get_plotlyjs(), "")


@pytest.fixture(scope="module")
def found(own_text):
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', own_text)
    return json.loads(text)


@pytest.mark.parametrize(
    ("ranks", "batch", "bandwidth", "latency"),
    [(1, 32, 1, 1), (4, 100, 1, 1), (8, 128, 1 / 64, 16), (32, 8192, 4, 1 / 4), (64, 512, 1, 16)],
)
def test_every_number_is_the_prediction(found, ranks, batch, bandwidth, latency):
    here = SPACE.with_ranks(ranks).with_batch(batch)
    index = BANDWIDTHS.index(bandwidth) * len(LATENCIES) + LATENCIES.index(latency)
    place = found["ranks"].index(ranks)
    point = found["points"][place][found["batches"].index(batch)]
    for number, candidate in enumerate(shown(here)):
        expected = predict(candidate.job(here.job), candidate.plan, machines(here)[index])
        assert found["candidates"][place][number]["name"] == candidate.name
        assert point["fits"][number] is (expected.memory <= MACHINE.memory)
        assert point["memory"][number] == round(expected.memory / 2**20)
        for part in ("compute", "optimizer"):
            assert point[part][number] == round(1e6 * getattr(expected, part))
        for part in ("activations", "gradients"):
            assert point[part][number][index] == round(1e6 * getattr(expected, part))


def test_the_links_that_decide_are_the_ones_that_change():
    within, between = (
        [getattr(machine, name)["exchange"] for machine in machines(SPACE.with_ranks(ranks))]
        for name, ranks in (("within", 4), ("between", 8))
    )
    assert {link.bandwidth for link in within} == {2e10 * factor for factor in BANDWIDTHS}
    assert {link.latency for link in between} == {5e-5 * factor for factor in LATENCIES}
    assert all(each.within == MACHINE.within for each in machines(SPACE.with_ranks(8)))


def test_commands_are_those_of_the_candidates(found):
    for ranks, named in zip(found["ranks"], found["candidates"], strict=True):
        for candidate, row in zip(shown(SPACE.with_ranks(ranks)), named, strict=True):
            assert row["command"].startswith("./launch.sh --n")
            assert row["command"].endswith(" ".join([*candidate.overrides, "batch_size="]))


def test_bf16_gradients_replace_the_slower_fp32_where_they_may():
    here = SPACE._replace(compress=True)
    assert len(shown(here)) == len(shown(SPACE))
    assert {each.compressed for each in shown(here)} == {True, False}
    best = here.best.candidate
    assert best in shown(here)


def test_batches_smaller_than_the_ranks_are_left_out(found):
    batches, ranks = found["batches"], found["ranks"]
    for number, points in zip(ranks, found["points"], strict=True):
        assert [point is None for point in points] == [batch < number for batch in batches]


def test_a_node_that_does_not_divide_the_ranks_is_not_planned_for():
    machine = make_machine(3, between=make_links())
    assert data(Space(Job(PAPER, 64), machine, 6), HOW)["ranks"] == [1, 2, 6]


def test_a_machine_without_links_has_one_rank():
    machine = make_machine(8).model_copy(update={"within": {}})
    assert data(Space(Job(PAPER, 64), machine, 1), HOW)["ranks"] == [1]


class _Resources(HTMLParser):
    """Collects what a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href", "srcset")]


def test_the_page_is_whole(own_text, written):
    resources = _Resources()
    resources.feed(own_text)
    assert resources.found == []
    assert "://" not in own_text
    assert "default-src 'none'" in own_text
    assert "[[" not in re.sub(r"<script.*?</script>", "", own_text, flags=re.DOTALL)
    assert len(own_text) < 2e6
    assert written.stat().st_size < 8e6


def test_a_machine_names_itself_and_its_source():
    device = "</script><script>alert(1)</script>"
    changes = {"device": device, "source": "data sheet", "within": {}}
    machine = MACHINE.model_copy(update=changes)
    text = page(Space(Job(PAPER, 64), machine, 1), HOW)
    assert device not in text
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in text
    assert "was not measured" in text


@pytest.mark.programs
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize(("batch", "ranks", "bandwidth"), [(128, 4, 1), (1024, 8, 0.0625)])
def test_the_dials_find_the_best(written, tmp_path, batch, ranks, bandwidth):
    fragment = f"batch={batch}&ranks={ranks}&bandwidth={bandwidth}"
    text = _opened(f"{written.as_uri()}#{fragment}", tmp_path)
    here = SPACE.with_ranks(ranks).with_batch(batch)
    index = BANDWIDTHS.index(bandwidth) * len(LATENCIES) + LATENCIES.index(1)
    best = here._replace(machine=machines(here)[index]).best
    [said] = re.findall(r'<p id="best"[^>]*>(.*?)</p>', text)
    speed = batch / best.prediction.seconds
    assert said.startswith(f"Best: {best.candidate.name}, {speed:,.0f} images/s.")
    [command] = re.findall(r'<pre id="command"[^>]*>(.*?)</pre>', text)
    assert command.endswith(f"batch_size={batch}")
    assert all(setting in command for setting in best.candidate.overrides)
    assert text.count('class="main-svg"') >= 2


@pytest.mark.programs
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_batch_smaller_than_the_ranks_is_said(written, tmp_path):
    text = _opened(f"{written.as_uri()}#batch=32&ranks=64", tmp_path)
    assert "A batch of 32 is smaller than 64 ranks" in text
    assert '<div id="answer" hidden="">' in text


def _opened(address, folder):
    """The page's elements after its script ran, in a browser with a profile in ``folder``."""
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}"]
    command = [CHROMIUM, *flags, "--virtual-time-budget=5000", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.replace(get_plotlyjs(), "")
