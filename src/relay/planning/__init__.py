"""From a prompt to proposed steps. A planner proposes; it decides nothing and reaches nothing."""
