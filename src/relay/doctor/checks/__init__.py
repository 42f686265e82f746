"""The checks, each a pure function over :class:`~relay.doctor.facts.Facts`. ``relay.doctor.registry`` lists them."""
