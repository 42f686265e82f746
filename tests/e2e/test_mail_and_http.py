"""What a preview shows is what the world receives, byte for byte: over SMTP, into the Maildir and over HTTP."""

import base64
import hashlib
import json
import ssl
from pathlib import Path
from typing import Any

from tests.inbox import smtp_inbox
from tests.outside import OK, answer, http_server, make_certificate
from tests.process import Client, gateway_process

SENDER = "relay@sender.example"
MAIL: dict[str, Any] = {
    "to": ["a@b.example"],
    "cc": ["c@b.example"],
    "bcc": ["hidden@b.example"],
    "subject": "Überschrift — first mail",
    "text": "Grüße\n.\n..dots at the start of lines\nend",
    "html": "<p>Grüße</p>",
    "attachments": [{"name": "data.bin", "type": "application/x-test", "data": base64.b64encode(bytes(256)).decode()}],
}


async def preview_and_execute(client: Client, action: str, params: dict[str, Any]) -> tuple[Any, Any]:
    previewed = await client.post("/actions/preview", {"action": action, "params": params})
    assert previewed.status == 200, previewed.body
    executed = await client.post("/actions/execute", {"preview_id": previewed.body["preview_id"]})
    assert executed.status == 200, executed.body
    attempt = await client.get(f"/attempts/{executed.body['attempt_id']}")
    assert attempt.body["digest"] == previewed.body["digest"]
    return previewed.body["rendering"], executed.body["result"]


def assert_as_previewed(shown: Any, message: bytes) -> None:
    assert len(message) == shown["message"]["size"]
    assert hashlib.sha256(message).hexdigest() == shown["message"]["sha256"]
    assert message.startswith("\r\n".join(shown["headers"]).encode() + b"\r\n\r\n")


async def test_a_mail_arrives_over_smtp_as_previewed(tmp_path: Path) -> None:
    async with smtp_inbox() as inbox:
        env = {"SMTP_URL": f"smtp://127.0.0.1:{inbox.port}", "SMTP_FROM": SENDER}
        async with gateway_process(tmp_path, env=env) as gateway, gateway.client() as client:
            shown, result = await preview_and_execute(client, "email.send", MAIL)
        (mail,) = inbox.mails
    assert (mail.sender, mail.recipients) == (SENDER, ("a@b.example", "c@b.example", "hidden@b.example"))
    assert_as_previewed(shown, mail.data)
    assert b"hidden@b.example" not in mail.data
    assert mail.header("Message-ID") == result["message_id"] == shown["message"]["message_id"]
    assert (result["transport"], result["delivered"], result["warning"]) == ("smtp", True, None)


async def test_a_mail_goes_through_starttls_that_the_given_authority_vouches_for(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate.cert, certificate.key)
    async with smtp_inbox(tls) as inbox:
        env = {"SMTP_URL": f"smtp://127.0.0.1:{inbox.port}", "SMTP_FROM": SENDER}
        trusting = {**env, "SMTP_CA_FILE": str(certificate.cert)}
        async with gateway_process(tmp_path / "trusting", env=trusting) as gateway, gateway.client() as client:
            shown, _ = await preview_and_execute(client, "email.send", MAIL)
        (mail,) = inbox.mails
        assert mail.tls
        assert_as_previewed(shown, mail.data)

        async with gateway_process(tmp_path / "distrusting", env=env) as gateway, gateway.client() as client:
            refused = await client.execute("email.send", MAIL)
        assert refused.status == 502, refused.body
        assert refused.body["code"] == "smtp_tls_failed"
        assert refused.body["attempt_status"] == "failed"
        assert inbox.mails == [mail]


async def test_without_smtp_a_mail_lands_in_the_maildir_as_previewed(tmp_path: Path) -> None:
    async with gateway_process(tmp_path) as gateway, gateway.client() as client:
        shown, result = await preview_and_execute(client, "email.send", MAIL)
        (message,) = (gateway.data / "mail" / "new").iterdir()
    assert_as_previewed(shown, message.read_bytes())
    assert message.stat().st_mode & 0o777 == 0o600
    assert (result["transport"], result["delivered"]) == ("maildir", False)
    assert "nothing leaves this machine" in result["warning"]


async def test_a_request_arrives_as_previewed(tmp_path: Path) -> None:
    reply = answer("HTTP/1.1 201 Created\r\nContent-Type: text/plain\r\nX-Made: yes\r\nContent-Length: 4\r\n\r\nmade")
    params = {
        "method": "PUT",
        "url": "/things/%C3%A9?a=1",
        "headers": {"Accept-Language": "de", "X-Api-Key": "topsecretvalue"},
        "query": {"q": "a b&c", "n": 2},
        "json": {"z": 1, "a": ["é", None, 1.5]},
    }
    async with http_server(reply) as sink:
        env = {"EGRESS_ALLOW": f"127.0.0.1:{sink.port}"}
        async with gateway_process(tmp_path, env=env) as gateway, gateway.client() as client:
            asked = {**params, "url": f"{sink.url}{params['url']}"}
            shown, result = await preview_and_execute(client, "http.request", asked)
    # The versions that are read before a change are not what is looked at here.
    (raw,) = [request for request in sink.requests if not request.startswith(b"HEAD ")]
    head, _, body = raw.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    assert line == "PUT /things/%C3%A9?a=1&q=a%20b%26c&n=2 HTTP/1.1"
    assert body == '{"a":["é",null,1.5],"z":1}'.encode()
    headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
    assert headers.pop("connection") == "close"
    assert headers == {
        "host": f"127.0.0.1:{sink.port}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "accept-language": "de",
        "user-agent": "relay",
        "x-api-key": "topsecretvalue",
        "content-type": "application/json",
        "content-length": str(len(body)),
    }
    assert shown == {
        "method": "PUT",
        "url": f"{sink.url}/things/%C3%A9?a=1&q=a%20b%26c&n=2",
        "headers": {**headers, "x-api-key": "***"},
        "body": json.loads(body),
    }
    assert (result["status"], result["body"]) == (201, "made")


async def test_a_webhook_arrives_as_canonical_json(tmp_path: Path) -> None:
    async with http_server(OK) as sink:
        env = {"EGRESS_ALLOW": f"127.0.0.1:{sink.port}"}
        async with gateway_process(tmp_path, env=env) as gateway, gateway.client() as client:
            payload = {"z": "é", "a": [1, 2]}
            await preview_and_execute(client, "webhook.save", {"url": f"{sink.url}/hook", "payload": payload})
    (raw,) = sink.requests
    assert raw.startswith(b"POST /hook HTTP/1.1\r\n")
    assert raw.endswith('\r\n\r\n{"a":[1,2],"z":"é"}'.encode())


async def test_a_destination_that_is_not_allowed_hears_nothing(tmp_path: Path) -> None:
    async with http_server(OK) as sink, gateway_process(tmp_path) as gateway, gateway.client() as client:
        refused = await client.execute("webhook.save", {"url": f"{sink.url}/hook", "payload": 1})
        assert refused.status == 403, refused.body
        own = await client.execute("webhook.save", {"url": f"{gateway.url}/health", "payload": 1})
        assert own.status == 403, own.body
    assert (sink.connections, sink.requests) == (0, [])


async def test_a_prompt_becomes_a_plan_becomes_a_run_whose_mail_holds_the_first_result(tmp_path: Path) -> None:
    reply = answer("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 15\r\n\r\nforty-two it is")
    async with smtp_inbox() as inbox, http_server(reply) as sink:
        env = {
            "SMTP_URL": f"smtp://127.0.0.1:{inbox.port}",
            "SMTP_FROM": SENDER,
            "EGRESS_ALLOW": f"127.0.0.1:{sink.port}",
            "INTERNAL_DOMAINS": "b.example",
        }
        async with gateway_process(tmp_path, env=env) as gateway:
            agent = await gateway.new_key("actions:preview", "actions:execute")
            async with gateway.client(agent) as client:
                prompt = f"call {sink.url}/x and then email the result to a@b.example"
                plan = (await client.post("/ai/plan", {"prompt": prompt})).body
                assert [step["action"] for step in plan["steps"]] == ["http.request", "email.send"], plan
                assert plan["steps"][1]["depends_on"] == [plan["steps"][0]["id"]]
                assert (sink.requests, inbox.mails) == ([], [])

                accepted = await client.post("/ai/execute", {"plan_id": plan["plan_id"]})
                assert accepted.status == 202, accepted.body
                run = await client.run_ended(accepted.body["run_id"])
            await gateway.verified()
        assert [step["status"] for step in run["steps"]] == ["succeeded", "succeeded"], run
        assert sink.requests[0].startswith(b"GET /x HTTP/1.1\r\n")
        (mail,) = inbox.mails
        assert mail.recipients == ("a@b.example",)
        assert b"forty-two it is" in mail.data
        assert mail.header("Message-ID") == run["steps"][1]["result"]["message_id"]
