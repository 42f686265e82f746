"""The tables of policy: versions of each workspace's policies, and what decisions were made upon."""
