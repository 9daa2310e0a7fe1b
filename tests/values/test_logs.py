import json
import logging
import sys

from mesh import logs


def record(message="hello %s", *args, level=logging.INFO, exc_info=None, **extra):
    made = logging.getLogger("a.b").makeRecord("a.b", level, __file__, 1, message, args, exc_info, extra=extra)
    return made


def test_a_json_line_has_time_level_logger_message_and_fields():
    line = json.loads(logs.JsonFormatter().format(record("hello %s", "you", endpoint="get_user", odd={1, 2} - {2})))
    assert line["time"].endswith("+00:00")
    assert (line["level"], line["logger"], line["message"]) == ("info", "a.b", "hello you")
    assert (line["endpoint"], line["odd"]) == ("get_user", [1])


def test_a_json_line_is_one_line_whatever_was_logged():
    try:
        raise ValueError("two\nlines")
    except ValueError:
        text = logs.JsonFormatter().format(record("a\nb", exc_info=sys.exc_info()))
    assert "\n" not in text
    assert "two\nlines" in json.loads(text)["exception"]


def test_text_is_coloured_only_when_asked():
    error = record("broken", level=logging.ERROR, request_id="id-1")
    plain, coloured = logs.TextFormatter(False).format(error), logs.TextFormatter(True).format(error)
    assert "\x1b" not in plain
    assert plain.endswith("error   a.b: broken request_id=id-1")
    assert coloured.startswith("\x1b[31m")
    assert coloured.endswith("\x1b[0m")


def test_sources_add_facts_to_every_line():
    logs.add_source(facts)
    logs.add_source(facts)
    try:
        assert json.loads(logs.JsonFormatter().format(record("x")))["fact"] == "seven"
    finally:
        logs._sources.remove(facts)
    assert facts not in logs._sources


def test_configure_sends_libraries_to_stderr_as_asked(capsys):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure("warning", "json")
        logging.getLogger("some.library").warning("seen")
        logging.getLogger("some.library").info("not seen")
        logging.getLogger("uvicorn.error").info("not seen either")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    out, err = capsys.readouterr()
    assert out == ""
    assert [json.loads(line)["message"] for line in err.splitlines()] == ["seen"]


def facts():
    return {"fact": "seven"}
