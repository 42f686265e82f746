"""What works in servers and workers alike, wired on an open house: the gate, plan runs, deliveries. No HTTP server."""

import logging

from relay.approvals.decide import Decisions
from relay.approvals.expire import Expiry
from relay.approvals.intake import Intake
from relay.approvals.notices import Notices
from relay.approvals.requests import Requests
from relay.audit.record import event
from relay.catalog import Catalog, CatalogError
from relay.chat.service import Chat, ChatRules
from relay.connectors import echo, email, http, webhook
from relay.connectors.honey import honey_connectors
from relay.core.clock import DAY, HOUR, MICROSECONDS
from relay.core.ids import new_id
from relay.core.streams import Places
from relay.egress.http import HttpClient
from relay.egress.mail import MaildirTransport, MailTransport, check_address
from relay.egress.own import own_endpoints
from relay.egress.policy import EgressPolicy
from relay.egress.smtp import SmtpTransport
from relay.egress.webhooks import WebhookClient
from relay.gate.checks import Checks
from relay.gate.limit import ActionLimits
from relay.gate.parts import GateParts, Lifetimes
from relay.house import House
from relay.identity.operator import operator
from relay.limits.actions import limit_actions
from relay.limits.service import LimitService
from relay.llm.service import LanguageModels
from relay.planning.choose import choose_planner
from relay.policy.budget_book import BudgetBook
from relay.policy.budgets import Budgets
from relay.policy.engine import CedarPolicy
from relay.policy.installed import installed_reach, installed_schema, installed_services
from relay.policy.kill_switch import KillSwitch
from relay.policy.recorded import Recorded
from relay.policy.replay import Replays
from relay.policy.versions import PolicyVersions
from relay.queue.choose import open_queue
from relay.rotation.care import Care
from relay.rotation.rotate import Rotation
from relay.runs.plans import Plans
from relay.runs.service import Runs
from relay.settings import Settings, SettingsError
from relay.store.attempt_counts import AttemptCounts
from relay.store.retention import Purge
from relay.store.writer import StoreUnavailable
from relay.unusual.service import UnusualUse
from relay.webhooks.deliver import Sender
from relay.webhooks.endpoints import Endpoints
from relay.webhooks.journal import Journal
from relay.webhooks.log import DeliveryLog
from relay.webhooks.schedule import Schedule

log = logging.getLogger("relay")


class Engine:
    """What works, in servers and workers alike: the gate, plan runs and whatever else is durable. No HTTP.

    Construction does no I/O. Whoever puts work into :attr:`queue` registers its handler before :meth:`start`.
    """

    def __init__(self, house: House, listen: tuple[str, int], schedule: Schedule) -> None:
        settings, database = house.settings, house.database
        self._house = house
        self.places = Places(settings.streams_per_principal)
        self.catalog = build_catalog(settings, listen)
        self.policy_schema = installed_schema(self.catalog, settings)
        self.policies = PolicyVersions(database, self.policy_schema, replay_required=settings.policy_replay_required)
        self.replays = Replays(database, house.vault, self.policy_schema)
        self.policy = CedarPolicy(self.policies, installed_reach(settings), AttemptCounts(database.reader))
        self.limits = LimitService(settings, house.installation.id, lambda tag: note(house, tag), house.metrics)
        self.queue = open_queue(house.target, settings.run_concurrency)
        services = installed_services(settings)
        self.kill_switch = KillSwitch(database, self.catalog, services)
        self.budgets = Budgets(database, house.vault)
        self.budget_book = BudgetBook(database, self.catalog, services)
        recorded = Recorded(house.vault, settings.decision_retention_days * DAY)
        checks = Checks(self.kill_switch, self.budgets, recorded)
        self.requests = Requests(database, house.vault, self.catalog)
        self.notices = _notices(house, self.requests, self.catalog)
        gate = GateParts(
            database,
            house.vault,
            self.catalog,
            self.policy,
            house.api_keys,
            checks,
            ActionLimits(self.limits.limiter),
            self.queue,
            Intake(self.notices, settings.approvals_per_key, settings.approvals_per_workspace),
            Lifetimes(
                retention=settings.retention_days * DAY,
                idempotency=settings.idempotency_ttl_hours * HOUR,
                preview=settings.preview_ttl_seconds * MICROSECONDS,
                approval=settings.approval_ttl_hours * HOUR,
                hold_back=settings.hold_back_seconds,
            ),
            house.metrics,
        )
        self.gate = gate
        self.performer = gate.performer
        self.decisions = Decisions(
            database,
            house.vault,
            self.catalog,
            gate.resumer,
            gate.dispatch.wake,
            retention=settings.retention_days * DAY,
            hold_back=settings.hold_back_seconds,
        )
        self.expiry = Expiry(database)
        self.purge = Purge(database.writer)
        self.models = LanguageModels(settings, database, house.vault, house.metrics)
        self.plans = Plans(
            database,
            house.vault,
            self.performer,
            choose_planner(settings, self.models),
            ttl=settings.plan_ttl_seconds * MICROSECONDS,
            metrics=house.metrics,
        )
        self.runs = Runs(
            database,
            house.vault,
            self.performer,
            house.api_keys,
            self.plans,
            self.queue,
            retention=settings.retention_days * DAY,
            idempotency_ttl=settings.idempotency_ttl_hours * HOUR,
            recall=gate.holds.cancel_with_run,
        )
        self.chat = Chat(
            database,
            house.vault,
            self.performer,
            self.catalog,
            house.api_keys,
            self.models,
            self.decisions,
            self.requests,
            self.queue,
            self.places,
            ChatRules(
                lifetime=settings.chat_session_hours * HOUR,
                sessions=settings.chat_sessions_per_principal,
                stored=settings.chat_stored_mib_per_principal * 1024 * 1024,
                retention=settings.retention_days * DAY,
                calls_per_turn=settings.chat_calls_per_turn,
                context_tokens=settings.ai_context_tokens,
                link_hosts=settings.ai_link_hosts,
                actions_enabled=settings.actions_enabled,
                grace=settings.shutdown_grace_seconds,
            ),
            metrics=house.metrics,
        )
        client = WebhookClient(build_egress(settings, listen))
        journal = Journal(database, house.envelopes, house.outbox, schedule, house.metrics)
        self.sender = Sender(database, journal, client, self.queue, house.outbox, schedule)
        self.endpoints = Endpoints(database, house.vault, house.envelopes, house.outbox, client)
        self.care = care_of(house)
        self.deliveries = DeliveryLog(database, house.vault, house.outbox)
        effects = {spec.name: spec.effect for spec in self.catalog}
        self.unusual = UnusualUse(settings, database, house.vault, effects)

    async def start(self, *, work: bool) -> None:
        """Run what runs by itself. ``work`` says whether this process takes part in the durable work."""
        sole = self._house.target.kind == "sqlite"
        await self.limits.start()
        await self.gate.sweep.start(sole_process=sole)
        await self._house.heads.start()
        await self.care.start()
        await self.purge.start()
        await self.unusual.start()
        await self.kill_switch.stopping.start()
        await self.queue.start(work=work)
        await self.models.start()
        await self.sender.start(work=work, sole_process=sole)
        if work:
            await self._house.watch.start()
            await self.gate.dispatch.start()
            await self.expiry.start()
            await self.notices.start()
            await self.runs.start(sole_process=sole)
            await self.chat.start(sole_process=sole)

    def close_streams(self) -> None:
        """End every event stream now; to be called when a shutdown begins, before the server waits for answers."""
        self.runs.close_streams()
        self.chat.close_streams()

    async def stop(self) -> None:
        """Begin nothing new and wait within the grace for what is under way."""
        await self.gate.dispatch.stop()
        await self.expiry.stop()
        await self.notices.stop()
        await self.runs.stop()
        await self.chat.stop()
        await self.sender.stop(self._house.settings.shutdown_grace_seconds)
        await self.queue.stop(self._house.settings.shutdown_grace_seconds)
        await self.models.stop()
        await self.gate.attempts.stop()
        await self.kill_switch.stopping.stop()
        await self.unusual.stop()
        await self.purge.stop()
        await self.care.stop()
        await self.gate.sweep.stop()
        await self.limits.stop()


def care_of(house: House) -> Care:
    """Return what looks after the secrets of an installation."""
    rotation = Rotation(house.database, house.envelopes, house.keyring, house.installation, principal=operator().id)
    settings = house.settings
    return Care(
        house.database,
        house.envelopes,
        house.keyring,
        rotation,
        period=settings.secret_period_days * DAY,
        rotates=settings.secrets_auto_rotate,
    )


async def note(house: House, tag: str) -> None:
    """Record what became of this process."""
    draft = event(tag, workspace_id="", principal=operator().id, request_id=new_id("req"), target=house.installation.id)
    await house.database.writer.run(lambda tx: tx.record(draft), outcome=True)


async def note_stop(house: House, tag: str) -> None:
    """Record that this process stops, if the database still takes it."""
    try:
        await note(house, tag)
    except StoreUnavailable as error:
        log.warning("that this process stopped could not be recorded: %s", error)


def build_egress(settings: Settings, listen: tuple[str, int]) -> EgressPolicy:
    """Return where callers, agents and stored data may make this installation connect to."""
    database, redis = settings.database_url, settings.redis_url
    try:
        own = own_endpoints(
            listen=listen,
            database_url=database.get_secret_value() if database else None,
            redis_url=redis.get_secret_value() if redis else None,
        )
        return EgressPolicy(settings.egress_allow, own, trace_hosts=settings.trace_propagate_hosts)
    except ValueError as error:
        raise SettingsError([f"EGRESS_ALLOW: {error}"]) from None


def build_catalog(settings: Settings, listen: tuple[str, int]) -> Catalog:
    """Return every action of this installation with the client that its connector uses."""
    egress = build_egress(settings, listen)
    catalog = Catalog()
    catalog.register(echo.connector, None)
    catalog.register(email.connector, _mail(settings))
    catalog.register(webhook.connector, HttpClient(egress, webhook.connector.hosts))
    catalog.register(http.connector, HttpClient(egress, http.connector.hosts))
    _set_traps(catalog, settings)
    limit_actions(catalog, settings)
    return catalog


def _set_traps(catalog: Catalog, settings: Settings) -> None:
    """Add the operator's honey actions."""
    try:
        for connector in honey_connectors(settings.honey_actions):
            catalog.register(connector, None)
    except CatalogError as error:
        raise SettingsError([f"HONEY_ACTIONS: {error}"]) from None


def _notices(house: House, requests: Requests, catalog: Catalog) -> Notices:
    """Return the mails about approvals; they go the way of all mail."""
    settings, transport = house.settings, catalog.client("email.send")
    try:
        recipients = tuple(map(check_address, settings.approval_mail_to))
    except ValueError as error:
        raise SettingsError([f"APPROVAL_MAIL_TO: {error}"]) from None
    return Notices(house.database, requests, transport, recipients=recipients, public_url=settings.public_url)


def _mail(settings: Settings) -> MailTransport:
    if settings.smtp_url is None:
        folder = settings.data_dir / "mail"
        return MaildirTransport(folder, settings.smtp_from) if settings.smtp_from else MaildirTransport(folder)
    ca_file = str(settings.smtp_ca_file) if settings.smtp_ca_file else None
    try:
        return SmtpTransport(settings.smtp_url.get_secret_value(), settings.smtp_from or "", ca_file=ca_file)
    except ValueError as error:
        raise SettingsError([f"SMTP_URL: {error}"]) from None
