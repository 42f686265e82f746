"""The one way in which settings say no."""


class SettingsError(Exception):
    """Relay does not start with these settings. ``problems`` has one sentence for each, beginning with its name.
    Names that are no settings come last, where there are any: one of them may be why another is missing.

    Neither the text nor anything attached to it holds the value of a setting.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(["Relay does not start with these settings:", *(f"  {line}" for line in problems)]))
