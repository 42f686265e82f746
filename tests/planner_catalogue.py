"""A catalogue of 1,000 actions as many connectors together would have, and requests for them in other words.

All of it is made by rule and by lot from a seed, so that the same catalogue and requests come out each time. The words
of the requests are chosen here, without a look at what the planner takes for synonyms.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, create_model

from relay.catalog import ActionSpec, Connector, Rendering
from relay.core.action import Step
from relay.core.permit import Permit

SIZE: Final = 1_000
REQUESTS: Final = 800

# Connector: what people call it, how it names its verbs, what it has.
_STYLES: Final = (
    {"create": "create", "list": "list", "get": "get", "update": "update", "delete": "delete", "find": "search"},
    {"create": "add", "list": "list", "get": "read", "update": "edit", "delete": "remove", "find": "find"},
    {"create": "new", "list": "all", "get": "fetch", "update": "change", "delete": "delete", "find": "lookup"},
)
_CONNECTORS: Final = """
hubspot|crm: contact company deal note
salesforce|crm: lead account opportunity campaign
pipedrive|crm: deal person activity
zendesk|support desk: ticket macro user
intercom|support inbox: conversation contact segment
freshdesk|helpdesk: ticket agent reply
jira|issue tracker: issue sprint comment
asana|tasks: task section project
trello|boards: card board checklist
linear|issues: issue cycle label
github|code host: repository branch release gist
gitlab|code host: pipeline merge_request runner
slack|team chat: channel message reminder
teams|team chat: meeting team message
discord|chat: role message server
gmail|mailbox: draft filter thread
outlook|mailbox: rule folder event
calendar|calendar: event invitation
zoom|video calls: meeting recording webinar
drive|files: folder permission file
dropbox|files: file link folder
notion|notes: page database block
sheets|spreadsheets: row worksheet chart
airtable|tables: record view field
stripe|payments: invoice charge subscription coupon
paypal|payments: payout dispute order
quickbooks|accounting: expense vendor estimate
xero|accounting: bill journal budget
shopify|shop: product order discount collection
woo|shop: coupon customer variant
shippo|shipping: parcel label rate
warehouse|stock: item shelf delivery
aws|cloud: instance bucket snapshot
kube|cluster: deployment pod secret
cloudflare|network: zone record certificate
pagerduty|on-call: incident schedule escalation
datadog|monitoring: monitor dashboard alert
grafana|monitoring: panel annotation
sentry|errors: release event project
mailchimp|newsletters: campaign subscriber audience
twilio|phone: sms number call
typeform|forms: form response
bamboo|people: employee absence payslip
greenhouse|hiring: candidate interview offer
docusign|signatures: envelope template recipient
hotel|travel: reservation room guest
fleet|cars: vehicle trip driver
clinic|practice: patient appointment prescription
school|courses: course student grade
estate|property: listing viewing tenant
cms|website: article author menu
youtube|video: video playlist caption
survey|feedback: survey rating answer
identity|accounts: user role session
vault|secrets: credential lease
legal|contracts: contract clause party
"""
_SPECIAL: Final = {
    "invoice": ("send", "void", "mark_paid"),
    "charge": ("refund", "capture"),
    "subscription": ("cancel", "pause", "resume"),
    "ticket": ("close", "reopen", "assign", "merge"),
    "issue": ("close", "assign", "link"),
    "task": ("complete", "assign", "move"),
    "card": ("move", "archive"),
    "message": ("send", "pin", "forward"),
    "event": ("cancel", "invite_guest"),
    "meeting": ("cancel", "start"),
    "deployment": ("restart", "scale", "rollback"),
    "instance": ("start", "stop", "reboot"),
    "incident": ("acknowledge", "resolve", "escalate"),
    "campaign": ("send", "schedule"),
    "sms": ("send",),
    "order": ("cancel", "fulfil", "refund"),
    "parcel": ("track", "return"),
    "employee": ("onboard", "terminate"),
    "candidate": ("reject", "advance"),
    "envelope": ("send", "void"),
    "reservation": ("confirm", "cancel"),
    "user": ("suspend", "reset_password", "invite"),
    "repository": ("archive", "fork"),
    "pipeline": ("retry", "run"),
    "absence": ("approve", "reject"),
    "expense": ("approve", "reimburse"),
    "file": ("upload", "download", "share"),
    "folder": ("share", "move"),
    "article": ("publish", "unpublish"),
    "video": ("upload", "publish"),
    "contact": ("merge", "tag"),
    "snapshot": ("restore",),
    "alert": ("mute",),
    "offer": ("send", "withdraw"),
    "appointment": ("reschedule", "confirm"),
    "vehicle": ("locate", "lock"),
    "certificate": ("renew",),
    "credential": ("rotate",),
    "payout": ("pause",),
    "dispute": ("accept",),
    "product": ("publish", "restock"),
}
_FIELDS: Final = {
    "create": ("name:What it is called", "description:Free text", "owner:Who is responsible"),
    "list": ("limit:How many at most", "cursor:Where the page begins"),
    "get": ("id:Which one",),
    "update": ("id:Which one", "changes:What shall be different"),
    "delete": ("id:Which one", "reason:Why"),
    "find": ("query:Words to look for", "limit:How many at most"),
}
_SUMMARIES: Final = {
    "create": "Create a {object} in {connector}.",
    "list": "List every {object}, newest first.",
    "get": "Return one {object} with its details.",
    "update": "Change the fields of a {object}.",
    "delete": "Delete a {object} for good.",
    "find": "Search for a {object} by words.",
}

# How people say it. The first of each is what software says; the others are other words for it.
_VERBS: Final = {
    "create": ("create", "set up", "open", "make", "add", "put in", "register", "start"),
    "list": ("list", "show me", "give me an overview of", "which are there:", "print"),
    "get": ("get", "look at", "show", "pull up", "tell me about", "open"),
    "update": ("update", "change", "fix the details of", "rename", "correct", "edit"),
    "delete": ("delete", "get rid of", "remove", "throw away", "drop", "clean up"),
    "find": ("search for", "find", "look for", "locate", "hunt down", "where is"),
    "send": ("send", "shoot off", "mail out", "dispatch"),
    "cancel": ("cancel", "call off", "scrap", "abort"),
    "close": ("close", "wrap up", "finish"),
    "assign": ("assign", "give", "hand over"),
    "approve": ("approve", "sign off on", "ok", "accept"),
    "reject": ("reject", "turn down", "decline"),
    "refund": ("refund", "pay back", "return the money for"),
    "restart": ("restart", "bounce", "reboot"),
    "upload": ("upload", "put up", "add"),
    "publish": ("publish", "put live", "release"),
    "track": ("track", "where is", "follow"),
    "share": ("share", "give access to"),
}
_NOUNS: Final = {
    "contact": ("contact", "person", "address book entry"),
    "company": ("company", "firm", "business"),
    "deal": ("deal", "sale", "opportunity"),
    "ticket": ("ticket", "support request", "case"),
    "issue": ("issue", "bug", "problem"),
    "task": ("task", "to-do", "chore"),
    "repository": ("repository", "repo"),
    "merge_request": ("merge request", "MR"),
    "channel": ("channel", "room"),
    "message": ("message", "note", "DM"),
    "meeting": ("meeting", "call", "get-together"),
    "event": ("event", "appointment", "date"),
    "file": ("file", "document", "attachment"),
    "folder": ("folder", "directory"),
    "row": ("row", "line"),
    "record": ("record", "entry"),
    "invoice": ("invoice", "bill"),
    "charge": ("charge", "payment"),
    "coupon": ("coupon", "voucher", "promo code"),
    "expense": ("expense", "cost"),
    "vendor": ("vendor", "supplier"),
    "product": ("product", "article"),
    "order": ("order", "purchase"),
    "parcel": ("parcel", "package", "shipment"),
    "instance": ("instance", "server", "VM"),
    "bucket": ("bucket", "storage"),
    "incident": ("incident", "outage"),
    "dashboard": ("dashboard", "board"),
    "subscriber": ("subscriber", "reader"),
    "employee": ("employee", "colleague", "staff member"),
    "absence": ("absence", "vacation", "day off"),
    "candidate": ("candidate", "applicant"),
    "reservation": ("reservation", "booking"),
    "vehicle": ("vehicle", "car"),
    "patient": ("patient",),
    "appointment": ("appointment", "visit"),
    "student": ("student", "pupil"),
    "listing": ("listing", "flat", "house"),
    "article": ("article", "post"),
    "user": ("user", "login"),
    "credential": ("credential", "password"),
    "contract": ("contract", "agreement"),
    "sms": ("SMS", "text message"),
    "label": ("label", "sticker"),
}
_FILLERS: Final = (
    "",
    " for Ada Lovelace",
    " from last week",
    " with the number 4711",
    " that Bob mentioned",
    " called “Winter sale”",
    " and let me know when it is done",
    " before the review on Friday",
)
_OPENINGS: Final = ("", "please ", "could you ", "I need you to ", "hey, ")


class _Done(BaseModel):
    id: str
    status: str


@dataclass(frozen=True)
class Request:
    """A request, the one action that it means, in whose words (``plain`` or ``other``), and whether it says where."""

    text: str
    action: str
    words: str
    placed: bool


@dataclass(frozen=True)
class _Made:
    spec: ActionSpec
    people: str
    connector: str
    object: str
    verb: str


def _render(step: Step, client: Any) -> Rendering:
    return Rendering(summary=step.action, body={})


def _declared(connector: Connector, name: str, verb: str, summary: str, noun: str) -> ActionSpec:
    fields: dict[str, Any] = {}
    for given in _FIELDS.get(verb, ("id:Which one", "note:Free text")):
        field, _, description = given.partition(":")
        own = f"{noun}_id" if field == "id" else field
        if field in ("limit", "cursor"):
            fields[own] = (int | None if field == "limit" else str | None, Field(default=None, description=description))
        else:
            fields[own] = (str, Field(description=description))
    params = create_model("Params", __config__=ConfigDict(extra="forbid"), **fields)

    async def handler(permit: Permit, params: Any, client: Any) -> _Done:
        raise AssertionError("nothing of this catalogue is ever run")

    handler.__doc__ = summary
    handler.__annotations__["params"] = params
    effect: Any = "read" if verb in ("list", "get", "find", "track") else "destructive" if verb == "delete" else "write"
    connector.action(name, effect=effect, render=_render)(handler)
    return connector.actions[name]


@lru_cache(maxsize=1)
def _made() -> tuple[_Made, ...]:
    found: list[_Made] = []
    lines = _CONNECTORS.strip().splitlines()
    for number, line in enumerate(lines):
        head, _, objects = line.partition(": ")
        short, _, people = head.partition("|")
        connector, style = Connector(short, hosts=None), _STYLES[number % len(_STYLES)]
        for noun in objects.split():
            words = noun.replace("_", " ")
            for verb, own in style.items():
                summary = _SUMMARIES[verb].format(object=words, connector=short.capitalize())
                spec = _declared(connector, f"{short}.{own}_{noun}", verb, summary, noun)
                found.append(_Made(spec, people, short, noun, verb))
            for special in _SPECIAL.get(noun, ()):
                said = special.replace("_", " ")
                summary = f"{said.capitalize()} a {words}."
                spec = _declared(connector, f"{short}.{special}_{noun}", special, summary, noun)
                found.append(_Made(spec, people, short, noun, special))
    return tuple(found)


def catalogue(size: int = SIZE) -> list[ActionSpec]:
    """Return ``size`` actions in the order of their names."""
    kept = random.Random(1).sample(_made(), size)
    return sorted((made.spec for made in kept), key=lambda spec: spec.name)


def requests(actions: Sequence[ActionSpec], count: int = REQUESTS, seed: int = 2) -> list[Request]:
    """Return requests, each for one of ``actions``: a half in the software's words, a half in others."""
    lots = random.Random(seed)
    offered = {spec.name for spec in actions}
    known = [made for made in _made() if made.spec.name in offered]
    found = []
    for number in range(count):
        made = lots.choice(known)
        other = number % 2 == 1
        verb = lots.choice(_VERBS.get(made.verb, (made.verb.replace("_", " "),))[int(other) :] or (made.verb,))
        nouns = _NOUNS.get(made.object, (made.object.replace("_", " "),))
        noun = lots.choice(nouns[int(other) :] or nouns) if other else nouns[0]
        place = lots.choice(("", f" in {made.connector}", f" in our {made.people}"))
        text = f"{lots.choice(_OPENINGS)}{verb} the {noun}{place}{lots.choice(_FILLERS)}"
        found.append(Request(text, made.spec.name, "other" if other else "plain", bool(place)))
    return found
