"""The agent's version: a device takes over the agent of a release that is not older."""

AGENT_VERSION = 1
