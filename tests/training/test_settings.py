"""What a configuration file may say, and what is said of one that cannot be used."""

import json
import typing
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from common.errors import ReportedError
from model.initialization import SCHEMES
from model.variants import VARIANTS
from training.config import Config
from training.settings import check_same_run, dump_config, load_config, settings_help

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.fixture
def load(tmp_path):
    def load(text, *overrides):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return load_config(path, list(overrides))

    return load


@pytest.fixture
def fault(load):
    """What is said of a configuration that is refused."""

    def fault(text, *overrides):
        with pytest.raises(ReportedError) as refusal:
            load(text, *overrides)
        return str(refusal.value)

    return fault


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads(path):
    assert load_config(path, []).name == path.stem


def test_an_empty_file_is_all_defaults(load):
    assert load("# nothing\n") == Config()


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("batchsize: 8", "batchsize", "'batch_size'"),
        ("optimizer: {lerning_rate: 0.1}", "optimizer.lerning_rate", "'learning_rate'"),
        ("data: {qqqq: 1}", "data.qqqq", "name, folder, size, resize"),
    ],
)
def test_an_unknown_key_is_named_with_its_file_and_the_nearest_valid_one(fault, text, key, hint):
    said = fault(text)
    assert f"mine.yaml: {key}: unknown key" in said
    assert hint in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs: many", ["epochs", "'many'"]),
        ("epochs: 1.5", ["epochs", "1.5"]),
        ("epochs: 0", ["epochs", "greater than 0", "got 0"]),
        (
            "variant: papr",
            ["variant", "'caffe', 'caffenet' or 'zfnet'", "'papr'"],
        ),
        ("name: ../elsewhere", ["name", "'../elsewhere'"]),
        ("data: 3", ["data", "got 3"]),
        ("data: {size: 32}", ["data.size", "64", "got 32"]),
        ("data: {mean: [1, red]}", ["data.mean", "'red'"]),
        ("optimizer: {momentum: 1}", ["optimizer.momentum", "less than 1"]),
        ("optimizer: {learning_rate: .inf}", ["optimizer.learning_rate", "finite"]),
        ("data: {std: .nan}", ["data.std", "finite"]),
        ("towers: 5", ["5 towers", "width of 96"]),
        ("optimizer: {nesterov: true, momentum: 0}", ["optimizer.nesterov", "momentum"]),
        ("data: {size: 96, resize: 64}", ["data.resize", "data.size"]),
        ("data: {name: image_folder}", ["data.folder", "train/ and test/"]),
        ("data: {name: packed}", ["data.folder", "prepare.py"]),
        ("net: {meet: [conv4]}", ["net.meet.0", "'conv3', 'fc6' or 'fc7'", "'conv4'"]),
        ("net: {activation: gelu}", ["net.activation", "'relu', 'tanh' or 'sigmoid'", "'gelu'"]),
        ("net: {pool: 4}", ["net.pool", "2 or 3", "got 4"]),
        ("net: {dropout: [0, 1, 0]}", ["net.dropout.1", "less than 1"]),
        ("net: {lrn: false}", ["net.lrn: unknown key", "local_response_norm"]),
        ("- name", ["must hold a mapping"]),
        ("name: [", ["not valid YAML", "line 1"]),
        ("name: 2026-99-99", ["not valid YAML", "month"]),
        ("1: 2", ["1: Keys should be strings"]),
    ],
)
def test_what_cannot_be_used_is_named(fault, text, words):
    said = fault(text)
    assert "mine.yaml" in said
    assert [word for word in words if word not in said] == []


def test_the_key_of_a_number_or_list_is_named_as_it_is_written(fault):
    assert "data.mean: " in fault("data: {mean: red}")


def test_every_fault_is_reported(fault):
    lines = fault("epochs: 0\nseed: -1\ntower: 2\ndata: {size: big}").splitlines()
    for key in ("epochs", "seed", "tower", "data.size"):
        assert len([line for line in lines if f"mine.yaml: {key}: " in line]) == 1


def test_a_tag_that_would_run_code_is_refused_and_not_run(fault, tmp_path):
    trace = tmp_path / "trace"
    said = fault(f"name: !!python/object/apply:os.system ['touch {trace}']")
    assert "os.system" in said
    assert not trace.exists()


@pytest.mark.parametrize("content", [None, b"name: \xff\xfe"], ids=["missing", "not text"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "gone.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ReportedError, match=r"gone\.yaml"):
        load_config(path, [])


@pytest.mark.parametrize("override", ["epochs", "=3", "name.x=3", "name=[", "name=2026-99-99"])
def test_an_override_that_cannot_be_read_is_quoted(fault, override):
    assert repr(override) in fault("name: a", override)


def test_overrides_win_over_the_file_and_the_last_one_over_all(load):
    config = load("epochs: 2\ndata: {size: 96}", "data.size=128", "epochs=3", "epochs=4")
    assert (config.data.size, config.epochs) == (128, 4)


def test_what_net_changes_is_all_that_differs_from_the_variant(load):
    paper = VARIANTS["paper"]
    assert load("").form == paper
    assert load("", "net.meet=[]", "net.pool=2").form == replace(paper, meet=(), pool=2)
    off = load("variant: half", "net.local_response_norm=false", "net.dropout=[0, 0, 0]").form
    assert off == replace(VARIANTS["half"], local_response_norm=False, dropout=(0, 0, 0))


def test_an_override_is_checked_like_the_file(fault):
    assert "optimizer.momentun: unknown key, did you mean 'momentum'" in fault(
        "name: a", "optimizer.momentun=0"
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("net.meet=[conv4]", "command line: net.meet.0: "),
        ("Data.mirror=true", "the command line: Data: unknown key, did you mean 'data'?"),
        ("towers=3", "mine.yaml and the command line: 3 towers do not divide"),
        ("data.resize=32", "mine.yaml and the command line: data"),
        ("mirror=true", "command line: mirror: unknown key, did you mean 'data.mirror'?"),
    ],
)
def test_a_fault_is_laid_to_where_it_is_from(fault, override, said):
    assert said in fault("data: {mirror: false}", override)


def test_of_many_faults_the_first_are_told(fault):
    told = fault("\n".join(f"key{number}: 1" for number in range(30))).splitlines()
    assert len(told) == 9
    assert told[-1] == "and 22 more"


def test_1e_3_is_a_number_in_the_file_and_in_an_override(load):
    assert load("optimizer: {learning_rate: 1e-3}").optimizer.learning_rate == 0.001
    assert load("", "optimizer.learning_rate=1e-3").optimizer.learning_rate == 0.001


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_dumped_configuration_loads_as_the_same(load, path):
    config = load_config(path, ["data.folder=a/b", "tracking.group=g"])
    assert load(dump_config(config)) == config


def _saved(config):
    return json.loads(json.dumps(config.model_dump(mode="json")))


@pytest.mark.parametrize(
    "override", ["placement=local", "keep_checkpoints=7", "data.folder=there", "runs=elsewhere"]
)
def test_a_resumed_run_may_change_what_is_not_computed_with(load, override):
    check_same_run(load("", override), _saved(Config()))


@pytest.mark.parametrize(
    ("override", "before"),
    [
        ("seed=7", "0"),
        ("batch_size=64", "128"),
        ("optimizer.learning_rate=0.5", "0.01"),
        ("max_steps=9", "None"),
        ("net.pool=2", "None"),
    ],
)
def test_a_resumed_run_may_not_change_what_is_computed(load, override, before):
    key, _, now = override.partition("=")
    with pytest.raises(ReportedError, match=f"another {key}: it was {before} and is now {now}"):
        check_same_run(load("", override), _saved(Config()))


def test_a_setting_that_the_saved_run_did_not_have_counts_as_changed():
    saved = _saved(Config())
    del saved["optimizer"]["label_smoothing"]
    with pytest.raises(ReportedError, match=r"optimizer\.label_smoothing"):
        check_same_run(Config(), saved)


def _settings(model, prefix=""):
    """(key, field) of every setting below ``model``."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _settings(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def test_help_has_every_setting_with_its_default():
    lines = settings_help().splitlines()
    for key, field in _settings(Config):
        [line] = [line for line in lines if line.startswith(f"  {key} = ")]
        default = yaml.safe_load(line.partition(" = ")[2].partition("  (")[0])
        assert default == json.loads(json.dumps(field.default, default=str))


def test_help_fits_a_terminal_and_is_indented():
    lines = settings_help().splitlines()
    assert max(map(len, lines)) <= 100
    assert all(line.startswith("  ") and line.strip() for line in lines)


def test_help_lists_the_choices():
    assert "schedule.name = constant  (constant, plateau, one_cycle)" in settings_help()


@pytest.mark.parametrize(("key", "field"), list(_settings(Config)))
def test_every_setting_is_described(key, field):
    assert field.description
    assert " ".join(field.description.split()) in " ".join(settings_help().split())


def test_the_variants_that_can_be_named_are_those_there_are():
    assert set(typing.get_args(Config.model_fields["variant"].annotation)) == set(VARIANTS)


def test_the_init_that_can_be_named_are_those_there_are():
    named, _ = typing.get_args(Config.model_fields["init"].annotation)
    assert set(typing.get_args(named)) == set(SCHEMES)
