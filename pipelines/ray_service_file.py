"""KubeRay's manifests after a look: what they say, and the words of the commit that carries them.

That commit is no release's: whoever reverts a release does not revert what the operator applies.

This module must not decide: the steps are those of `policies/stepping.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from policies.commit_message import message
from policies.layout import ray_service_path
from policies.ray_service import manifest_text
from policies.stepping import NextManifest


def manifest_changes(manifests: Mapping[str, NextManifest]) -> dict[str, str]:
    """The files that change, by path."""
    return {
        ray_service_path(name): manifest_text(each.manifest.head, each.manifest.config)
        for name, each in manifests.items()
        if each.changed and each.manifest is not None
    }


def manifest_words(manifests: Mapping[str, NextManifest]) -> dict[str, str]:
    """What changes in them, by environment."""
    return {name: each.changed for name, each in manifests.items() if each.changed}


def manifest_message(words: Mapping[str, str]) -> str:
    """`production: rayservice.yaml: add fraud--v2-1a2b3c4d`: the message of the commit that carries these steps."""
    lines = [f"{name}: rayservice.yaml: {said}" for name, said in words.items()]
    return message(lines[0], "\n".join(lines[1:]), {"Sluice-Environment": ", ".join(words)})
