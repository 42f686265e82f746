"""The tables of what is sent: endpoints, events and deliveries."""
