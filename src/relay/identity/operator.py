"""The operator: whoever may run the ``relay`` command on the data folder or the database."""

from relay.core.principal import OPERATOR_ID, SCOPES, Principal


def operator() -> Principal:
    """Return the principal that the command line acts as: a person who belongs to no workspace and may make any key."""
    return Principal(
        id=OPERATOR_ID,
        kind="person",
        workspace_id="",
        scopes=frozenset(SCOPES),
        credential_id=OPERATOR_ID,
        made_by=(),
        auth_method="operator",
    )
