"""Fixtures of trainings, from trainings.py."""

from trainings import (  # noqa: F401
    fingerprint,
    here,
    make_config,
    make_tiny_plan,
    parsed,
    plan_corpus,
    plan_for,
    quick_commands,
    quick_judging,
    quick_probes,
    run,
    say,
    shelf,
    timeless,
)
