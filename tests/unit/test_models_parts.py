"""The parts of the door to models, each by itself: prices, what start-up refuses, estimates, the breaker, text."""

import importlib.util
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from relay.llm.breaker import FAILURES, FIRST_PAUSE, LONGEST_PAUSE, Breaker, State
from relay.llm.choice import Choice, choices
from relay.llm.estimate import BEYOND, IMAGE_TOKENS, MOST_IMAGE_TOKENS, answer_tokens, question_tokens, text_tokens
from relay.llm.mending import Mender, mended
from relay.llm.messages import (
    Function,
    FunctionCall,
    FunctionResult,
    Image,
    Instruction,
    Message,
    ModelMessage,
    Question,
    UserMessage,
)
from relay.llm.prices import BILLIONTHS, GivenPrice, price_of, to_billionths
from relay.llm.redacting import redacted
from relay.llm.vendor_words import MOST, excerpt
from relay.settings import SettingsError, load_settings
from tests.model_server import KEY

SECRET = "sk-" + "S3cr3t" * 6
MILLION = 1_000_000


def chosen(tmp_path: Path, **given: str) -> tuple[Choice, ...]:
    return choices(load_settings({"RELAY_ENV": "test", "RELAY_DATA_DIR": str(tmp_path), **given}, cwd=tmp_path))


def refusal(tmp_path: Path, **given: str) -> str:
    with pytest.raises(SettingsError) as refused:
        chosen(tmp_path, **given)
    assert KEY not in str(refused.value)
    return str(refused.value)


def test_a_key_alone_is_enough_and_without_anything_there_is_no_model(tmp_path: Path) -> None:
    assert chosen(tmp_path) == ()
    (first,) = chosen(tmp_path, OPENAI_API_KEY=KEY)
    assert (first.vendor, first.model, first.base_url) == ("openai", "gpt-5-mini", "https://api.openai.com/v1")
    assert first.is_openai and not first.price.free
    assert KEY not in repr(first)


def test_models_are_named_with_or_without_their_vendor(tmp_path: Path) -> None:
    given = {"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY, "GOOGLE_API_KEY": KEY}
    for name, vendor, model in (
        ("gpt-5-mini", "openai", "gpt-5-mini"),
        ("openai:gpt-5-mini", "openai", "gpt-5-mini"),
        ("anthropic:claude-haiku-4-5", "anthropic", "claude-haiku-4-5"),
        ("google:gemini-2.5-flash", "google", "gemini-2.5-flash"),
    ):
        (first,) = chosen(tmp_path, AI_MODEL=name, **given)
        assert (first.label, first.name, first.vendor, first.model) == ("first", name, vendor, model)
    local = {"OPENAI_BASE_URL": "http://127.0.0.1:11434/v1", "AI_PRICES": "qwen3:4b=0/0"}
    (first,) = chosen(tmp_path, AI_MODEL="qwen3:4b", **local)
    assert (first.vendor, first.model, first.key, first.is_openai) == ("openai", "qwen3:4b", None, False)


def test_start_up_refuses_a_model_that_cannot_be_asked(tmp_path: Path) -> None:
    assert "needs OPENAI_API_KEY" in refusal(tmp_path, AI_MODEL="gpt-5-mini")
    assert "needs ANTHROPIC_API_KEY" in refusal(tmp_path, AI_MODEL="anthropic:claude-haiku-4-5", OPENAI_API_KEY=KEY)
    assert "needs GOOGLE_API_KEY" in refusal(tmp_path, AI_MODEL="google:gemini-2.5-flash")
    assert "AI_FALLBACK_MODEL: there is no model" in refusal(tmp_path, AI_FALLBACK_MODEL="gpt-5-mini")
    same = refusal(tmp_path, OPENAI_API_KEY=KEY, AI_FALLBACK_MODEL="openai:gpt-5-mini")
    assert "is the model that it would stand in for" in same
    both = refusal(tmp_path, AI_MODEL="gpt-5-mini", AI_FALLBACK_MODEL="anthropic:claude-haiku-4-5")
    assert "AI_MODEL:" in both and "AI_FALLBACK_MODEL:" in both


@pytest.mark.parametrize("name", ["anthropic:", "google:", "openai:"])
def test_a_vendor_alone_is_no_model(tmp_path: Path, name: str) -> None:
    assert "AI_MODEL: must be the name of a model" in refusal(tmp_path, AI_MODEL=name, OPENAI_API_KEY=KEY)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/chat/completions/", "/openai/v1/Chat/Completions"])
def test_a_base_url_ends_before_what_relay_adds(tmp_path: Path, path: str) -> None:
    said = refusal(tmp_path, OPENAI_BASE_URL=f"http://127.0.0.1:11434{path}", AI_MODEL="m", AI_PRICES="m=0/0")
    assert "OPENAI_BASE_URL: must end before /chat/completions, which Relay adds: http://127.0.0.1:11434/v1" in said


def test_a_base_url_that_is_none_is_refused_with_one_as_it_should_be(tmp_path: Path) -> None:
    assert "must look like http://127.0.0.1:11434/v1," in refusal(tmp_path, OPENAI_BASE_URL="localhost:11434")
    for vendor in ("ANTHROPIC", "GOOGLE"):
        said = refusal(tmp_path, **{f"{vendor}_BASE_URL": "ftp://models"})
        assert f"{vendor}_BASE_URL: must look like https://models.example.com," in said


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "no", "code": "bad_key"}}', "no: bad_key"),
        (b'{"error": {"message": "no", "code": 404, "status": "NOT_FOUND"}}', "no: 404"),
        (b'[{"error": {"message": "no"}}]', "no"),
        (b'{"error": "no such model"}', "no such model"),
        (b'{"object": "error", "message": "no", "code": 400}', "no: 400"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"error": {"message": {"a": 1}, "code": null}}', ""),
        (b'{"error": {"message": "password=hunter2hunter2"}}', "password=***"),
        (b'{"error": {"message": "' + b"sk-" + b"a1B2" * 100 + b'"}}', "sk-***"),
        (b"<html>no</html>", ""),
        (b"[" * 60_000, ""),
        (b"[]", ""),
        (b"7", ""),
        (b"\xff\xfe", ""),
        (b"", ""),
    ],
)
def test_what_a_service_says_about_a_refusal_is_found_wherever_services_put_it(body: bytes, words: str) -> None:
    assert excerpt(body, None) == words


@given(st.text(max_size=600), st.text(max_size=20))
def test_an_excerpt_is_one_short_line_whatever_is_said(message: str, code: str) -> None:
    told = excerpt(json.dumps({"error": {"message": message, "code": code}}).encode(), SecretStr("k3y-k3y"))
    assert len(told) <= MOST and (told.isprintable() or not told)
    assert "k3y-k3y" not in told


def test_start_up_refuses_a_model_without_a_price(tmp_path: Path) -> None:
    local = {"OPENAI_BASE_URL": "http://127.0.0.1:11434/v1", "AI_MODEL": "my-llama"}
    assert "set AI_PRICES=my-llama=IN/OUT" in refusal(tmp_path, **local)
    assert "no price" in refusal(tmp_path, AI_PRICES="other=1/1", **local)
    assert chosen(tmp_path, AI_PRICES="my-llama=0/0", **local)[0].price.free
    assert "no price" in refusal(tmp_path, OPENAI_API_KEY=KEY, AI_MODEL="text-embedding-3-small")


@pytest.mark.parametrize("vendor", ["anthropic", "google"])
def test_start_up_says_how_a_missing_library_is_installed(
    tmp_path: Path, vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec

    def without(name: str) -> Any:
        if name.partition(".")[0] == vendor:
            raise ModuleNotFoundError(name)
        return real(name)

    monkeypatch.setattr("relay.llm.choice.find_spec", without)
    said = refusal(tmp_path, AI_MODEL=f"{vendor}:any", ANTHROPIC_API_KEY=KEY, GOOGLE_API_KEY=KEY)
    assert f"needs the extra `{vendor}`" in said and f"requirements/{vendor}.txt" in said


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("http://api.example.com/v1", True),
        ("http://203.0.113.7/v1", False),  # documentation's addresses are nobody's
        ("http://8.8.8.8/v1", True),
        ("http://[2606:4700::1111]/v1", True),
        ("https://api.example.com/v1", False),
        ("http://127.0.0.1:8000/v1", False),
        ("http://localhost:8000/v1", False),
        ("http://10.1.2.3:8000/v1", False),
        ("http://vllm:8000/v1", False),
        ("http://vllm.models.svc.cluster.local/v1", False),
        ("http://vllm.internal/v1", False),
    ],
)
def test_a_key_does_not_cross_strange_networks_in_the_clear(tmp_path: Path, url: str, refused: bool) -> None:
    given = {"OPENAI_BASE_URL": url, "AI_MODEL": "m", "AI_PRICES": "m=0/0"}
    assert chosen(tmp_path, **given)  # without a key there is nothing to be read
    if refused:
        more = {"AI_FALLBACK_MODEL": "n", "AI_PRICES": "m=0/0,n=0/0"}
        said = refusal(tmp_path, OPENAI_API_KEY=KEY, **given | more)
        assert said.count("  OPENAI_BASE_URL: begins with http://") == 1 and "in the clear; write https://" in said
        assert "AI_MODEL:" not in said and "AI_FALLBACK_MODEL:" not in said
    else:
        assert chosen(tmp_path, OPENAI_API_KEY=KEY, **given)


def test_prices_of_the_settings_come_first_then_those_of_the_place_then_those_of_the_vendor() -> None:
    own = (("gpt-5-mini", Decimal("1"), Decimal("2")), ("anthropic:claude-haiku-4-5", Decimal(0), Decimal(0)))
    openai, elsewhere = "https://api.openai.com/v1", "https://llm.example.com/v1"
    of_table = price_of("gpt-5-mini", "gpt-5-mini", openai, "openai", ())
    assert of_table is not None and of_table.cost(MILLION, 0) == BILLIONTHS // 4
    assert of_table.cost(0, MILLION) == 2 * BILLIONTHS
    given_price = price_of("gpt-5-mini", "gpt-5-mini", openai, "openai", own)
    assert given_price is not None and given_price.cost(MILLION, MILLION) == 3 * BILLIONTHS
    free = price_of("anthropic:claude-haiku-4-5", "claude-haiku-4-5", "https://api.anthropic.com", "anthropic", own)
    assert free is not None and free.free
    proxied = price_of("gpt-5-mini", "gpt-5-mini", elsewhere, "openai", ())
    assert proxied is not None and proxied.cost(1000, 1000) == of_table.cost(1000, 1000)
    azure = price_of("gpt-5-mini", "gpt-5-mini", "https://x.openai.azure.com/openai/v1", "openai", ())
    assert azure is not None and not azure.free
    assert price_of("llama3.2", "llama3.2", elsewhere, "openai", ()) is None


@given(
    st.decimals(0, 999_999, places=4), st.decimals(0, 999_999, places=4), st.integers(0, 10**7), st.integers(0, 10**7)
)
def test_costs_are_rounded_up_and_grow_with_tokens(given_in: Decimal, given_out: Decimal, into: int, out: int) -> None:
    price = GivenPrice(given_in, given_out)
    exact = (given_in * into + given_out * out) * 1000  # billionths for a millionth of a dollar
    assert 0 <= price.cost(into, out) - exact < 1
    assert price.cost(into + 1, out) >= price.cost(into, out) <= price.cost(into, out + 1)
    assert price.free == (given_in == given_out == 0)


def test_a_fraction_of_a_billionth_is_a_billionth() -> None:
    assert to_billionths(Decimal("0.0000000001")) == 1
    assert to_billionths(Decimal("0.50")) == BILLIONTHS // 2


TEXTS = st.text(max_size=200)


def test_a_text_has_no_more_tokens_than_bytes() -> None:
    assert (text_tokens(""), text_tokens("a"), text_tokens("ab" * 50)) == (0, 1, 100)
    assert text_tokens("狐狸") == 6 and text_tokens("😀" * 3) == 12
    assert text_tokens("\ud800") == 3  # what cannot be encoded counts too


@given(TEXTS, TEXTS)
def test_every_text_of_a_message_counts(one: str, two: str) -> None:
    call = FunctionCall("c", one, two)
    nothing = question_tokens(Question(())).most
    for message, texts in (
        (Instruction(one + two), (one + two,)),
        (UserMessage(one + two), (one + two,)),
        (ModelMessage(one, (call,)), (one, "c", one, two)),
        (FunctionResult("c", one, two), ("c", one, two)),
    ):
        found = question_tokens(Question((message,)))
        assert found.most > nothing + sum(map(text_tokens, texts))
        assert found.least == max(1, sum(len(text.split()) for text in texts) // 2)
    seen = question_tokens(Question((UserMessage(one, (Image("image/png", b"x"),) * 2),)))
    assert seen.most > nothing + text_tokens(one) + 2 * IMAGE_TOKENS
    assert seen.believed > BEYOND * text_tokens(one) + 2 * MOST_IMAGE_TOKENS
    function = Function(one, two, {"description": one})
    assert question_tokens(Question((), (function,))).most >= nothing + text_tokens(one + two) + text_tokens(one)


@given(st.lists(TEXTS, max_size=4), st.integers(16, 4096))
def test_what_an_answer_may_have_taken_lies_between_its_words_and_its_bound(texts: list[str], most: int) -> None:
    found = answer_tokens(texts, most)
    words = sum(len(text.split()) for text in texts)
    assert found.most == most and found.believed == BEYOND * most
    assert found.least == max(words // 2, 1 if any(texts) else 0)
    assert found.holds(found.least) is (found.least <= found.believed) and not found.holds(found.least - 1)
    assert found.holds(most) is (found.least <= most) and not found.holds(BEYOND * most + 1)


def test_the_breaker_opens_after_failures_in_a_row_and_closes_after_one_success() -> None:
    states: list[State] = []
    clock = [0.0]
    breaker = Breaker(states.append, lambda: clock[0])

    def ask(succeeds: bool | None) -> None:
        assert breaker.wait() == 0
        with breaker.trial() as trial:
            if succeeds is True:
                trial.succeeded()
            elif succeeds is False:
                trial.failed()

    for _ in range(FAILURES - 1):
        ask(False)
    ask(True)  # not in a row
    for _ in range(FAILURES - 1):
        ask(False)
    ask(None)  # a question that was given up says nothing
    assert states[-1:] == ["closed"]
    ask(False)
    assert states[-1:] == ["open"] and breaker.wait() == FIRST_PAUSE
    pause = FIRST_PAUSE
    for _ in range(5):
        clock[0] += pause
        assert breaker.wait() == 0
        with breaker.trial() as trial:
            assert states[-1:] == ["half_open"] and breaker.wait() > 0  # one at a time
            trial.failed()
        pause = min(pause * 2, LONGEST_PAUSE)
        assert breaker.wait() == pause
    clock[0] += pause
    ask(None)  # given up: the next may try
    ask(True)
    assert states[-1:] == ["closed"] and breaker.wait() == 0
    ask(False)
    assert breaker.wait() == 0  # counting begins anew


@given(st.text(st.characters(), max_size=40), st.lists(st.integers(0, 39), max_size=10))
def test_pieces_are_mended_as_the_whole_is(text: str, cuts: list[int]) -> None:
    mender, pieces, start = Mender(), [], 0
    for cut in sorted({min(cut, len(text)) for cut in cuts}):
        pieces.append(mender.feed(text[start:cut]))
        start = cut
    pieces += [mender.feed(text[start:]), mender.end()]
    assert "".join(pieces) == mended(text)
    assert mended(text).encode().decode() == mended(text)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_good_text_stays_as_it_is(text: str) -> None:
    assert mended(text) == text


@pytest.mark.parametrize(
    "message",
    [
        Instruction(f"Use {SECRET} for it"),
        UserMessage(f"my key is {SECRET}", (Image("image/png", b"x"),)),
        ModelMessage(f"You said {SECRET}", (FunctionCall("c", "f", f'{{"key": "{SECRET}"}}'),)),
        ModelMessage("", (FunctionCall("c", SECRET, "{}"),)),
        FunctionResult("c", "f", f'{{"authorization": "Bearer {SECRET}"}}'),
        FunctionResult("c", SECRET, "ok"),
    ],
    ids=["instruction", "user", "model", "call", "result", "name of a result"],
)
def test_secrets_are_taken_out_of_every_kind_of_message(message: Message) -> None:
    question = Question((message,), (Function("f", f"Like {SECRET}", {"type": "object"}),))
    assert SECRET in repr(question)
    clean = redacted(question)
    assert SECRET not in repr(clean) and "***" in repr(clean)
    assert type(clean.messages[0]) is type(message) and clean.functions[0].parameters == {"type": "object"}
    assert redacted(clean) == clean


def test_every_kind_of_message_is_driven_through_redaction() -> None:
    from typing import get_args

    driven = {Instruction, UserMessage, ModelMessage, FunctionResult}
    assert set(get_args(Message)) == driven
