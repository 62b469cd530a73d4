"""A chat template is rendered as transformers renders it, with a tokenizer that transformers itself wrote."""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path

import pytest

from harness.errors import ServerFailed
from harness.measure.chat_template import template_of

CONTENT = "messages[0].content"
TOLD = f"{{% generation %}}{{{{ {CONTENT} }}}}{{% endgeneration %}}"


def tokenizer_in(folder: Path, template: str) -> Path:
    """The smallest tokenizer that transformers loads, with this chat template."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "<unk>": 1}, unk_token="<unk>"))  # noqa: S106
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>").save_pretrained(  # noqa: S106
        folder
    )
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_a_template_is_rendered_by_hand_as_its_file_says(tmp_path: Path) -> None:
    assert template_of(tmp_path) is None
    assert template_of(None) is None
    render = template_of(
        tokenizer_in(
            tmp_path,
            "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}[assistant]{% endif %}",
        )
    )
    assert render is not None
    assert render("hello") == "<s>[user]hello[assistant]"


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{{ strftime_now('%Y') }} {{ messages[0].content }}", f"{dt.datetime.now().astimezone():%Y} é<b>"),
        ("{% for m in messages %}{% generation %}[{{ m.content }}]{% endgeneration %}{% endfor %}", "[é<b>]"),
        ("{% for m in messages %}{{ m.content }}{% break %}{% endfor %}", "é<b>"),
        ("{{ messages[0].content | tojson }}", '"é<b>"'),
        ("{% if tools or documents %}T{% endif %}{{ messages[0].content }}", "é<b>"),
        ("{{ messages[0].content }}{% if enable_thinking is defined %}!{% endif %}", "é<b>"),
        (f"{TOLD}{TOLD}", "é<b>é<b>"),
        (f"{{% generation %}}{{% for x in [1, 2] %}}{TOLD}{{% endfor %}}{{% endgeneration %}}", "é<b>é<b>"),
        (f"{{% macro f() %}}{TOLD}{{% endmacro %}}{{{{ f() }}}}", "é<b>"),
        # As templates of models that see have it: parts, and no text
        ("[{% for part in messages[0].content %}{{ part.text }}{% endfor %}]", "[é<b>]"),
        ("{{ messages[0].content[0]['text'] + '!' }}", "é<b>!"),
        (f"{{% if {CONTENT} is string %}}{{{{ no() }}}}{{% endif %}}{{{{ {CONTENT}[0].text }}}}", "é<b>"),
        ("{{ messages[0].content is string }}", "True"),
    ],
)  # fmt: skip
def test_a_template_may_use_all_that_transformers_gives_it(tmp_path: Path, template: str, shown: str) -> None:
    render = template_of(tokenizer_in(tmp_path, template))
    assert render is not None
    assert render("é<b>") == shown


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}",
        "{% for %}",
        "{{ unknown() }}",
        "{{ m[5].x.y }}",
        "{% include 'x' %}",
    ],
)
def test_a_template_that_cannot_be_rendered_is_a_sentence(tmp_path: Path, template: str) -> None:
    render = template_of(tokenizer_in(tmp_path, template))
    assert render is not None
    with pytest.raises(ServerFailed) as caught:
        render("hello")
    assert caught.value.code == "chat-template"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ([{"name": "tool_use", "template": "T"}, {"name": "default", "template": f"D{TOLD}"}], "Dhello"),
        ({"default": f"D{TOLD}"}, "Dhello"),
        ([{"name": "tool_use", "template": f"T{TOLD}"}], None),
        (5, None),
    ],
)  # fmt: skip
def test_of_several_templates_the_default_is_rendered(
    tmp_path: Path, given: object, shown: str | None
) -> None:
    path = tokenizer_in(tmp_path, "x") / "tokenizer_config.json"
    (tmp_path / "chat_template.jinja").unlink()
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": given}))
    render = template_of(tmp_path)
    assert render is not None
    if shown is None:
        with pytest.raises(ServerFailed) as caught:
            render("hello")
        assert caught.value.code == "chat-template"
    else:
        assert render("hello") == shown


def test_without_transformers_the_server_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tokenizer_in(tmp_path, "{{ messages[0].content }}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert template_of(folder) is None
