"""Configuration files: what they may hold, and the errors for those that cannot be used."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from common.errors import ReportedError
from model.variants import VARIANTS
from training.config import Config
from training.fields import list_fields
from training.settings import (
    RENAMED,
    check_same_run,
    dump_config,
    load_config,
    settings_help,
    upgrade,
)

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
    """The error for a configuration that is refused."""

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
        *((f"{old}: 1", old, f"'{RENAMED[old]}'") for old in RENAMED if "." not in old),
        ("data: {deviation: 90}", "data.deviation", "'data.std'"),
        ("optimizer: {accumulation: 2}", "optimizer.accumulation", "gradient_accumulation'"),
    ],
)
def test_an_unknown_key_is_named_with_its_file_and_the_valid_one(fault, text, key, hint):
    said = fault(text)
    assert f"mine.yaml: {key}: " in said
    assert hint in said


@pytest.mark.parametrize("old", RENAMED)
def test_an_override_with_an_old_key_is_told_the_new_one(fault, old):
    said = fault("", f"{old}=1")
    assert f"{old}: " in said
    assert f"'{RENAMED[old]}'" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs: many", ["epochs", "'many'"]),
        ("batch_size: 1.5", ["batch_size", "1.5"]),
        ("epochs: 0", ["epochs", "got 0"]),
        ("variant: papr", ["variant", "'papr'", "'paper'"]),
        ("variant: [paper]", ["variant", "['paper']"]),
        ("init: zeros", ["init", "'zeros'", "xavier"]),
        ("precision: fp8", ["precision", "'fp8'", "fp16"]),
        ("name: ../elsewhere", ["name", "'../elsewhere'"]),
        ("data: 3", ["data", "got 3"]),
        ("data: {name: imagenet}", ["data.name", "'imagenet'", "image_folder"]),
        ("data: {size: 32}", ["data.size", "64", "got 32"]),
        ("data: {mean: [1, red]}", ["data.mean", "'red'"]),
        ("optimizer: {name: adam}", ["optimizer.name", "'adam'", "'adamw'"]),
        ("optimizer: {momentum: 1}", ["optimizer.momentum", "got 1"]),
        ("optimizer: {betas: [0.9]}", ["optimizer.betas"]),
        ("optimizer: {learning_rate: .inf}", ["optimizer.learning_rate", "inf"]),
        ("schedule: {name: cosin}", ["schedule.name", "'cosin'", "'cosine'"]),
        ("data: {std: .nan}", ["data.std", "nan"]),
        ("data: {std: 0}", ["data.std", "greater than 0"]),
        ("data: {std: [1, 0, 1]}", ["data.std", "greater than 0"]),
        ("towers: 5", ["5 towers", "96"]),
        ("optimizer: {nesterov: true, momentum: 0}", ["optimizer.nesterov", "momentum"]),
        ("data: {size: 96, resize: 64}", ["data.resize", "data.size"]),
        ("data: {name: image_folder}", ["data.folder", "train/ and test/"]),
        ("data: {name: packed}", ["data.folder", "prepare.py"]),
        ("net: {meet: [conv4]}", ["net.meet.0", "'conv4'", "fc7"]),
        ("net: {activation: rellu}", ["net.activation", "'rellu'", "'relu'"]),
        ("net: {pool: 4}", ["net.pool", "got 4"]),
        ("net: {dropout: [0, 1, 0]}", ["net.dropout.1", "got 1"]),
        ("net: {lrn: false}", ["net.lrn: ", "local_response_norm"]),
        ("- name", ["mapping"]),
        ("name: [", ["line 1"]),
        ("epochs: 2026-99-99", ["month"]),
        ("1: 2", ["1: "]),
    ],
)
def test_a_value_that_cannot_be_used_is_named(fault, text, words):
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


@pytest.mark.parametrize("override", ["epochs", "=3", "name.x=3", "name=[", "epochs=2026-99-99"])
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
    said = fault("name: a", "optimizer.momentun=0")
    assert "optimizer.momentun: " in said
    assert "'momentum'" in said


@pytest.mark.parametrize(
    ("override", "origin", "meant"),
    [
        ("net.meet=[conv4]", "command line: net.meet.0: ", ""),
        ("Data.mirror=true", "the command line: Data: ", "'data'"),
        ("towers=3", "mine.yaml and the command line: ", "3 towers"),
        ("data.resize=32", "mine.yaml and the command line: data", ""),
        ("mirror=true", "command line: mirror: ", "'data.mirror'"),
    ],
)
def test_a_fault_is_laid_to_where_it_is_from(fault, override, origin, meant):
    said = fault("data: {mirror: false}", override)
    assert origin in said
    assert meant in said


def test_of_many_faults_the_first_are_told(fault):
    told = fault("\n".join(f"key{number}: 1" for number in range(30))).splitlines()
    assert len(told) == 9
    assert "22" in told[-1]


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
    "override",
    [
        *("placement=local", "keep_checkpoints=7", "data.folder=there", "runs=elsewhere"),
        "data.mean_image=there.npy",
        *("optimizer.gradient_accumulation=2", "tracking.group=g"),
    ],
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
    with pytest.raises(ReportedError, match=rf"\b{key}\b.*\b{before}\b.*\b{now}\b"):
        check_same_run(load("", override), _saved(Config()))


def test_a_setting_that_the_saved_run_did_not_have_was_the_default(load):
    saved = _saved(Config())
    del saved["optimizer"]["name"], saved["optimizer"]["label_smoothing"]
    check_same_run(Config(), saved)
    for override in ("optimizer.name=adamw", "optimizer.label_smoothing=0.1"):
        with pytest.raises(ReportedError, match=override.partition("=")[0]):
            check_same_run(load("", override), saved)


def test_saved_settings_with_old_keys_are_those_with_the_new_ones():
    config = Config.model_validate(
        {"init": "he", "data": {"std": 90.0}, "optimizer": {"gradient_accumulation": 2}}
    )
    old = _saved(config)
    old["initial_values"] = old.pop("init")
    old["data"]["deviation"] = old["data"].pop("std")
    old["optimizer"]["accumulation"] = old["optimizer"].pop("gradient_accumulation")
    before = json.dumps(old)
    assert upgrade(old) == _saved(config)
    assert json.dumps(old) == before
    assert upgrade(_saved(config)) == _saved(config)


@pytest.mark.parametrize("values", [{}, {"data": 3}, {"optimizer": None}])
def test_there_is_nothing_to_upgrade_in_what_has_no_such_section(values):
    assert upgrade(values) == values


def test_help_has_every_setting_with_its_default():
    lines = settings_help().splitlines()
    for key, field in list_fields(Config):
        [line] = [line for line in lines if line.startswith(f"  {key} = ")]
        default = yaml.safe_load(line.partition(" = ")[2].partition("  (")[0])
        assert default == json.loads(json.dumps(field.default, default=str)), key


def test_help_fits_a_terminal_and_is_indented():
    lines = settings_help().splitlines()
    assert max(map(len, lines)) <= 100
    assert all(line.startswith("  ") and line.strip() for line in lines)


@pytest.mark.parametrize(
    ("key", "choices"),
    [
        ("variant", ", ".join(VARIANTS)),
        ("schedule.name", "constant, plateau, one_cycle, cosine"),
        ("init", "released, text, xavier, he, default"),
        ("optimizer.name", "sgd, adamw, lars"),
        ("data.test_views", "1, 2, 10"),
    ],
)
def test_help_lists_the_choices(key, choices):
    [line] = [line for line in settings_help().splitlines() if line.startswith(f"  {key} = ")]
    assert line.endswith(f"({choices})")


@pytest.mark.parametrize(("key", "field"), list(list_fields(Config)))
def test_every_setting_is_described(key, field):
    assert field.description
    assert " ".join(field.description.split()) in " ".join(settings_help().split())


def test_a_row_is_all_that_a_new_variant_needs(load, fault, monkeypatch):
    monkeypatch.setitem(VARIANTS, "mine", replace(VARIANTS["half"], hidden=32))
    assert load("variant: mine").form.hidden == 32
    assert "mine" in settings_help()
    assert "'mine'" in fault("variant: mines")


PATHS = ("data.folder", "data.mean_image", "weights", "runs")


def test_every_path_among_the_settings_has_the_type_that_knows_the_home_folder():
    paths = [key for key, field in list_fields(Config) if "Path" in repr(field.annotation)]
    assert sorted(paths) == sorted(PATHS)


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize("by", ["file", "override"])
def test_a_path_may_start_at_the_home_folder(load, monkeypatch, key, by):
    monkeypatch.setenv("HOME", "/home/someone")
    section, _, last = key.rpartition(".")
    line = f"{{{last}: ~/a/b}}"
    text = f"{section}: {line}" if section else line
    config = load(text) if by == "file" else load("", f"{key}=~/a/b")
    value = getattr(getattr(config, section) if section else config, last)
    assert value == Path("/home/someone/a/b")


@pytest.mark.parametrize(
    "text", ["7", "007", "2026-11-26", "2026-99-99", "1e3", "1.50", "on", "true", "0x10"]
)
def test_text_is_taken_as_it_is_written(load, text):
    assert load(f"name: {text}").name == text
    assert load(f"tracking: {{group: {text}}}").tracking.group == text
    config = load("", f"name={text}", f"tracking.group={text}", f"data.folder={text}")
    assert (config.name, config.tracking.group) == (text, text)
    assert config.data.folder == Path(text)
    assert load(dump_config(config)) == config


@pytest.mark.parametrize("nothing", ["null", "~", ""])
def test_nothing_is_not_text(load, nothing):
    config = load("", f"tracking.group={nothing}", f"weights={nothing}")
    assert (config.tracking.group, config.weights) == (None, None)


def test_a_number_that_two_keys_share_is_text_for_one_and_a_number_for_the_other(load):
    config = load("batch_size: &size 7\nname: *size")
    assert (config.batch_size, config.name) == (7, "7")


def test_what_is_dumped_is_ascii_and_read_again(load):
    config = load("data: {folder: Straße}")
    assert dump_config(config).isascii()
    assert load(dump_config(config)) == config
