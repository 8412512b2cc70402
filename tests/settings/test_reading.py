"""Values, aliases, what is required, what only warns."""
# ruff: noqa: S105  # made-up passwords; nothing is bound here

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from loop_node.errors import SettingsError
from loop_node.settings import (
    VARIABLES,
    VERBS,
    WITHOUT_EFFECT,
    Settings,
    read_settings,
    settings_markdown,
    settings_table,
    settings_text,
)

STAND_ALONE = "LOOP_HOST is not set: this node stands alone, without a Learning Loop"
LOOP = {"LOOP_HOST": "loop.local", "LOOP_ORGANIZATION": "org", "LOOP_PROJECT": "proj"}


def read(verb: str = "detector", /, **environ: str) -> Settings:
    return read_settings(verb, environ, hostname="pc7")[0]


def warnings_of(verb: str = "detector", /, **environ: str) -> list[str]:
    """What is worth knowing about a detector that has a Loop and a project."""
    return read_settings(verb, LOOP | environ, hostname="pc7")[1]


def problems_of(verb: str = "detector", /, **environ: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as raised:
        read_settings(verb, environ, hostname="pc7")
    return raised.value.problems


def test_an_empty_environment_gives_the_stated_defaults():
    settings = read()
    assert (settings.loop_host, settings.max_queue, settings.max_body_bytes) == (None, 64, 64 * 1024 * 1024)
    assert (settings.min_uncertain_threshold, settings.max_uncertain_threshold) == (0.3, 0.6)
    assert (settings.conf_threshold, settings.iou_threshold, settings.model) == (None, None, None)
    assert settings.version_control_default == "follow_loop"
    assert not settings.sources


@pytest.mark.parametrize(
    ("verb", "host", "port"),
    [
        ("detector", "0.0.0.0", 8004),
        ("trainer", "0.0.0.0", 8005),
        ("annotator", "0.0.0.0", 8006),
        ("converter", "0.0.0.0", 8007),
        ("loop", "127.0.0.1", 8000),
        ("demo", "127.0.0.1", 8004),
    ],
)
def test_each_verb_has_its_own_address_and_name(verb: str, host: str, port: int):
    settings = read(verb, LOOP_HOST="loop.local")
    assert (settings.verb, settings.node_host, settings.node_port) == (verb, host, port)
    assert settings.node_name == f"{verb}-pc7"


def test_the_demo_has_a_second_port_and_follows_its_own_loop():
    assert read("demo").model is None
    assert read("demo").local_loop_port == 8000


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("LOOP_HOST", "learning-loop.ai", "loop_host", "learning-loop.ai"),
        ("LOOP_HOST", "https://loop.local:8443/", "loop_host", "https://loop.local:8443"),
        ("LOOP_HOST", "HTTP://[::1]:8000", "loop_host", "HTTP://[::1]:8000"),
        ("LOOP_HOST", " my_loop:1 ", "loop_host", "my_loop:1"),
        ("NODE_HOST", "[::]", "node_host", "::"),
        ("NODE_PORT", "0", "node_port", 0),
        ("NODE_NAME", "Hof 7 (links)", "node_name", "Hof 7 (links)"),
        ("LOG_LEVEL", "debug", "log_level", "DEBUG"),
        ("LOG_FORMAT", "JSON", "log_format", "json"),
        ("NO_COLOR", "0", "no_color", True),
        ("DEVICE", "gpu.1", "device", "GPU.1"),
        ("PERFORMANCE_HINT", "throughput", "performance_hint", "THROUGHPUT"),
        ("INFERENCE_PRECISION", "BF16", "inference_precision", "bf16"),
        ("CONF_THRESHOLD", "0", "conf_threshold", 0.0),
        ("IOU_THRESHOLD", "1", "iou_threshold", 1.0),
        ("WEIGHT_TYPE", "fp32", "weight_type", "FP32"),
        ("CORS_ALLOWED_ORIGINS", "https://a.b, http://c:1/,", "cors_allowed_origins", ("https://a.b", "http://c:1")),
        ("CORS_ALLOWED_ORIGINS", "*", "cors_allowed_origins", ("*",)),
        ("VERSION_CONTROL_DEFAULT", "PAUSE", "version_control_default", "pause"),
        ("EXCLUSIVE_MODEL_BUILD", "True", "exclusive_model_build", True),
        ("SKIP_REPEAT_ON_START", "true", "skip_repeat_on_start", True),
        ("KEEP_OLD_TRAININGS", "TRUE", "keep_old_trainings", True),
        ("RESTART_AFTER_TRAINING", "FALSE", "restart_after_training", False),
        ("TRAINER_IDLE_TIMEOUT_SEC", "1.5", "trainer_idle_timeout_s", 1.5),
        ("MAX_QUEUE", "\t", "max_queue", 64),
    ],
)
def test_a_good_value_is_taken_without_a_word(name: str, text: str, field: str, value: object):
    assert getattr(read("detector", **{name: text}), field) == value
    assert warnings_of("detector", **{name: text}) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LOOP_HOST", "https://loop.local/api"),
        ("LOOP_HOST", "ftp://loop.local"),
        ("LOOP_HOST", "loop.local:0"),
        ("LOOP_HOST", "loop.local:65536"),
        ("LOOP_HOST", "two words"),
        ("LOOP_HOST", "[not-an-address]"),
        ("LOOP_HOST", "::1"),
        ("LOOP_HOST", "https://"),
        ("LOOP_ORGANIZATION", "a/b"),
        ("LOOP_PROJECT", ".."),
        ("LOOP_SSL_CERT_PATH", "/no/such/file.pem"),
        ("NODE_NAME", "x" * 201),
        ("NODE_NAME", "line\nbreak"),
        ("NODE_HOST", "http://0.0.0.0"),
        ("NODE_PORT", "65536"),
        ("NODE_PORT", "80.0"),
        ("NODE_PORT", "9" * 5000),
        ("DATA_FOLDER", "~nobody-of-that-name/x"),
        ("LOG_LEVEL", "LOUD"),
        ("DEVICE", "MULTI:CPU,GPU"),
        ("MIN_UNCERTAIN_THRESHOLD", "nan"),
        ("MAX_UNCERTAIN_THRESHOLD", "inf"),
        ("CONF_THRESHOLD", "20 %"),
        ("IOU_THRESHOLD", "-0.1"),
        ("CORS_ALLOWED_ORIGINS", "example.org"),
        ("CORS_ALLOWED_ORIGINS", "https://example.org/page"),
        ("SYNC_CYCLES", "0"),
        ("MAX_OUTBOX_SIZE", "-1"),
        ("MAX_QUEUE", "0"),
        ("MAX_BODY_BYTES", "64MiB"),
        ("TRAINER_IDLE_TIMEOUT_SEC", "-1"),
        ("VRAM_LIMIT_GB", "lots"),
        ("WEIGHT_TYPE", "FP8"),
    ],
)
def test_a_wrong_value_is_a_problem_that_names_it_and_what_is_accepted(name: str, text: str):
    variable = next(variable for variable in VARIABLES.values() if variable.name == name)
    (problem,) = problems_of(**{name: text})
    assert problem.startswith(f"{name}=")
    assert text[:100] in problem or repr(text)[:100] in problem
    assert problem.endswith(f"expected {variable.kind.accepted}")
    assert len(problem) < 400


def test_all_wrong_values_are_told_at_once():
    problems = problems_of("trainer", NODE_PORT="x", MAX_QUEUE="y", DEVICE="z")
    assert [problem.split("=")[0].split(" ")[0] for problem in problems] == [
        "NODE_PORT",
        "DEVICE",
        "MAX_QUEUE",
        "LOOP_HOST",
    ]


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("USE_BACKDOOR_CONTROLS", "no", "use_backdoor_controls", False),
        ("EXCLUSIVE_MODEL_BUILD", "on", "exclusive_model_build", False),
        ("RESTART_AFTER_TRAINING", "yes", "restart_after_training", False),
        ("KEEP_OLD_TRAININGS", "2", "keep_old_trainings", False),
        ("SKIP_REPEAT_ON_START", "yes", "skip_repeat_on_start", False),
        ("SKIP_REPEAT_ON_START", "TRUE", "skip_repeat_on_start", False),
        ("VERSION_CONTROL_DEFAULT", "whatever", "version_control_default", "follow_loop"),
        ("VERSION_CONTROL_DEFAULT", "1.2", "version_control_default", "follow_loop"),
        ("WEIGHT_TYPE", "int8", "weight_type", "FP16"),
    ],
)
def test_what_always_meant_off_or_the_default_starts_with_a_warning(name: str, text: str, field: str, value: object):
    assert getattr(read("detector", **{name: text}), field) == value
    (warning,) = warnings_of(**{name: text})
    assert warning.startswith(f"{name}={text!r} is taken as")


def test_thresholds_that_leave_nothing_between_them_are_a_problem():
    (problem,) = problems_of(MIN_UNCERTAIN_THRESHOLD="0.7")
    assert problem.startswith("MIN_UNCERTAIN_THRESHOLD=0.7 is above MAX_UNCERTAIN_THRESHOLD=0.6")
    assert read(MIN_UNCERTAIN_THRESHOLD="0.6").min_uncertain_threshold == 0.6


@pytest.mark.parametrize("verb", ["trainer", "annotator", "converter"])
def test_a_node_that_is_nothing_without_a_loop_needs_its_address(verb: str):
    (problem,) = problems_of(verb)
    assert problem.startswith(f"LOOP_HOST is not set: the {verb} needs a Learning Loop")
    assert read(verb, HOST="loop.local").loop_host == "loop.local"


def test_a_detector_without_a_loop_says_that_it_stands_alone():
    assert read_settings("detector", {}, hostname="pc7")[1] == [STAND_ALONE]
    assert read_settings("demo", {}, hostname="pc7")[1] == []  # it brings its own
    assert read_settings("loop", {}, hostname="pc7")[1] == []


def test_a_detector_without_a_project_says_that_it_does_not_follow():
    settings, (warning,) = read_settings("detector", {"HOST": "l", "PROJECT": "p"}, hostname="pc7")
    assert not settings.serves_project
    assert warning.startswith("LOOP_ORGANIZATION not set, only the Learning Loop's address (env HOST)")
    assert "neither follows a model nor uploads images" in warning
    assert read(**LOOP).serves_project
    assert not read(LOOP_ORGANIZATION="o", LOOP_PROJECT="p").serves_project


def test_variables_without_effect_say_so_unless_they_are_off():
    assert warnings_of(UVICORN_RELOAD="FALSE", MANUAL_RESTART="0") == []
    assert warnings_of(UVICORN_RELOAD="1") == ["UVICORN_RELOAD has no effect: this node does not reload its code"]


class TestAliases:
    def test_an_alias_counts_where_its_loop_name_is_empty(self):
        settings = read(LOOP_HOST=" ", HOST="h", ORGANIZATION="o", PROJECT="p")
        assert (settings.loop_host, settings.loop_organization, settings.loop_project) == ("h", "o", "p")
        assert settings.sources["loop_host"] == "env HOST"

    def test_a_loop_name_beats_its_alias_with_a_warning_where_they_differ(self):
        assert read(LOOP_HOST="a", HOST="b").loop_host == "a"
        assert warnings_of(HOST="b") == ["LOOP_HOST and its alias HOST differ: LOOP_HOST counts"]
        assert warnings_of(HOST="loop.local") == []

    def test_a_beaten_alias_need_not_be_valid(self):
        assert read(LOOP_HOST="a", HOST="not a host").loop_host == "a"

    def test_a_wrong_alias_is_called_by_its_own_name(self):
        assert problems_of(HOST="not a host")[0].startswith("HOST='not a host' cannot be used")

    def test_username_and_password_count_only_together(self):
        settings = read(USERNAME="u", PASSWORD="p")
        assert (settings.loop_username, settings.loop_password) == ("u", "p")
        assert read(USERNAME="windows user").loop_username is None
        assert read(PASSWORD="p").loop_password is None

    def test_a_lonely_username_is_silent_and_a_lonely_password_is_not(self):
        assert warnings_of(USERNAME="windows user") == []
        assert [warning.split(":")[0] for warning in warnings_of(PASSWORD="hunter22")] == ["PASSWORD is ignored"]

    def test_a_lonely_username_does_not_differ_from_the_loop_name(self):
        assert warnings_of(USERNAME="windows user", LOOP_USERNAME="u", LOOP_PASSWORD="p") == []

    def test_differing_secrets_are_not_shown(self):
        warnings = warnings_of(LOOP_USERNAME="u", USERNAME="u", LOOP_PASSWORD="hunter22", PASSWORD="hunter33")
        assert warnings == ["LOOP_PASSWORD and its alias PASSWORD differ: LOOP_PASSWORD counts"]

    def test_half_a_login_is_told(self):
        assert warnings_of(LOOP_USERNAME="u") == [
            "LOOP_USERNAME is set but LOOP_PASSWORD is not: the node cannot log in"
        ]


NAMES = [
    *(variable.name for variable in VARIABLES.values()),
    *(variable.alias for variable in VARIABLES.values() if variable.alias),
    *WITHOUT_EFFECT,
    *("LOOP_PASSWORD_FILE", "LOOP_USERNAME_FILE", "CREDENTIALS_DIRECTORY"),
    *("STATE_DIRECTORY", "HOME", "XDG_STATE_HOME", "LOCALAPPDATA"),
]
# what an environment can hold: any bytes but NUL, decoded with surrogates for what is no UTF-8; and, on top, NUL
SOME_TEXT = (
    st.binary(max_size=30).map(lambda content: content.decode(errors="surrogateescape"))
    | st.text(max_size=30)
    | st.sampled_from(
        ["0", "1", "true", "0.5", "-1", "1e999", "nan", "localhost:80", "https://a:b@c/d", "*", "~", "~x"]
    )
)


@given(verb=st.sampled_from(VERBS), environ=st.dictionaries(st.sampled_from(NAMES), SOME_TEXT, max_size=12))
@hypothesis_settings(max_examples=400, deadline=None)
def test_any_environment_gives_settings_or_problems_that_name_variables(verb: str, environ: Mapping[str, str]):
    try:
        settings, warnings = read_settings(verb, environ, hostname="pc7")
    except SettingsError as error:
        lines = list(error.problems)
        assert lines
    else:
        lines = [*warnings, *settings_text(settings).splitlines()]
        assert len(lines) == len(warnings) + len(VARIABLES) + 1
        assert settings.data_folder.is_absolute()
    for line in lines:
        assert any(name in line for name in (*NAMES, "NAME"))
        assert line.isprintable()


SECRET = "pa55-w\u00f6rd/@:&x"


@given(
    verb=st.sampled_from(VERBS),
    environ=st.dictionaries(st.sampled_from(NAMES), SOME_TEXT, max_size=8),
    name=st.sampled_from(["LOOP_PASSWORD", "PASSWORD", "LOOP_PASSWORD_FILE"]),
    suffix=st.sampled_from(["", "\n", "\0", "\x1b", "\udc80"]),
)
@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_password_is_in_no_problem_warning_repr_or_table(verb: str, environ: dict[str, str], name: str, suffix: str):
    environ = {"USERNAME": "u", **environ, name: SECRET + suffix}
    try:
        settings, warnings = read_settings(verb, environ, hostname="pc7")
        shown = [*warnings, repr(settings), str(settings), repr(settings_table(settings)), settings_text(settings)]
    except SettingsError as error:
        shown = [str(error), repr(error)]
    assert not any("pa55" in text for text in shown)


@pytest.mark.parametrize("address", ["https://me:hunter22@loop.local", "me:hunter22@loop.local", "//me:hun/ter22@l"])
def test_the_user_part_of_a_refused_address_is_not_shown(address: str):
    (problem,) = problems_of(LOOP_HOST=address)
    assert "ter22" not in problem
    assert problem.startswith("LOOP_HOST=")


def test_the_secrets_that_are_set_are_known_for_masking():
    assert read(LOOP_USERNAME="u", LOOP_PASSWORD="hunter22").secrets == ("hunter22",)
    assert read().secrets == ()


class TestTable:
    def test_every_variable_is_a_row_with_its_value_and_source(self):
        rows = {
            row.name: row for row in settings_table(read(HOST="h", NODE_PORT="1", USERNAME="u", PASSWORD="hunter22"))
        }
        assert len(rows) == len(VARIABLES)
        assert (rows["LOOP_HOST"].value, rows["LOOP_HOST"].source) == ("h", "env HOST")
        assert (rows["NODE_PORT"].value, rows["NODE_PORT"].source) == ("1", "env NODE_PORT")
        assert (rows["MAX_QUEUE"].value, rows["MAX_QUEUE"].source) == ("64", "default")
        assert (rows["LOOP_PASSWORD"].value, rows["LOOP_PASSWORD"].source) == ("***", "env PASSWORD")
        assert rows["CONF_THRESHOLD"].value == "the model's, else 0.2"

    def test_the_markdown_has_one_row_of_five_cells_a_variable(self):
        lines = [line for line in settings_markdown().splitlines() if line.startswith("|")]
        assert len(lines) == len(VARIABLES) + 2
        assert {line.count("|") - line.count("\\|") for line in lines} == {6}
        assert all(any(f"| `{variable.name}`" in line for line in lines) for variable in VARIABLES.values())

    def test_static_defaults_are_what_the_reader_gives(self, tmp_path: Path):
        settings = read_settings("detector", {"HOME": str(tmp_path)}, hostname="pc7", container_folder=tmp_path / "no")[
            0
        ]
        for field, variable in VARIABLES.items():
            if field not in {"node_name", "data_folder", "local_loop_folder"}:
                assert getattr(settings, field) == variable.default

    def test_names_are_unique_and_every_default_fits_its_type(self):
        assert len(set(NAMES)) == len(NAMES)
        assert all(variable.purpose and not variable.purpose.endswith(".") for variable in VARIABLES.values())

    def test_the_local_loop_lies_below_the_data_folder(self, tmp_path: Path):
        """Unless it is given a place of its own."""
        environ = {"DATA_FOLDER": str(tmp_path)}
        assert read_settings("loop", environ, hostname="pc7")[0].local_loop_folder == tmp_path / "local_loop"
        environ["LOCAL_LOOP_FOLDER"] = "/elsewhere"
        assert read_settings("loop", environ, hostname="pc7")[0].local_loop_folder == Path("/elsewhere")
