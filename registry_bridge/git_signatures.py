"""Signatures of commits: what each commit changed, who signed it, and how ours are signed.

Rules:
- Whether a key counts is Git's and its programs' answer (`ssh-keygen -Y verify`, `gpg --verify`), with nothing but the
  signers that were asked about: no user's keyring, no user's allowed_signers.
- An SSH signature counts where the signers name its key; a GPG signature where the keyring (SLUICE_GPG_HOME) has its
  key, not expired, not revoked: what lies in that folder is what is trusted.
- A merge's own changes are those that a plain merge of its parents would not give (`_merged`).

This module must not decide which files need a signature.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from policies.errors import Stalled
from policies.signatures import Change, Signature
from registry_bridge.git_clone import Clone
from registry_bridge.repo_files import ROOTS

CHANGES_LIMIT: Final = 20_000
"""Commits looked at one by one; three years of one model. Beyond, a person moves the beginning of trust."""

_TROUBLE: Final = {
    "N": "is not signed",
    "B": "has a signature that does not fit it",
    "X": "has a signature that has expired",
    "Y": "is signed by a key that has expired",
    "R": "is signed by a key that was revoked",
}
_SSH: Final = re.compile(rb"^gpgsig(-sha256)? -----BEGIN SSH SIGNATURE-----$", re.MULTILINE)
_Blobs = dict[str, tuple[str, str]]
"""By path, the blob at a parent and at its child; zeros where there is none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keys:
    """Our own key, and whose GPG keys count."""

    signing_key: str | None = None
    """A path is an SSH key, anything else names a GPG key; none: we do not sign."""
    gpg_home: Path | None = None
    """A folder of GnuPG with the public keys that count, and our own where we sign with one."""

    @property
    def options(self) -> tuple[str, ...]:
        """For `git`: how commits are signed."""
        if self.signing_key is None:
            return ()
        form = "ssh" if "/" in self.signing_key else "openpgp"
        return ("-c", f"gpg.format={form}", "-c", f"user.signingKey={self.signing_key}")

    def environment(self, empty: str) -> dict[str, str]:
        """For GnuPG: its folder, or one that is empty."""
        return {"GNUPGHOME": str(self.gpg_home) if self.gpg_home else empty}


# --- who signed -------------------------------------------------------------------------------------------------


def signature(clone: Clone, commit: str, signers: str, keys: Keys) -> Signature:
    """What is known of the commit's signature; `signers` is the text of an allowed_signers file."""
    with tempfile.TemporaryDirectory(prefix="sluice-signers-") as folder:
        file = Path(folder) / "allowed_signers"
        file.write_text(signers, encoding="utf-8")
        options = ("-c", f"gpg.ssh.allowedSignersFile={file}", "-c", "gpg.x509.program=false")
        form = "--format=%G?%x00%GS%x00%GF%x00%GK"
        answer = clone.local(
            *options, "log", "-1", "--no-show-signature", form, commit, environment=keys.environment(folder)
        )
    status, signer, fingerprint, key = answer.text.split("\0")
    is_ssh = _SSH.search(clone.local("cat-file", "commit", commit).output.partition(b"\n\n")[0]) is not None
    if signer and (status == "G" or (status == "U" and not is_ssh)):
        return Signature(signer=signer)
    if status == "N" or status in _TROUBLE:
        return Signature(trouble=_TROUBLE[status])
    return Signature(trouble=f"is signed by a key that is not allowed to sign: {fingerprint or key or 'unknown here'}")


# --- what changed -----------------------------------------------------------------------------------------------


def changes(clone: Clone, since: str, tip: str) -> tuple[Change, ...]:
    """The commits of `tip` that are not in `since`, parents first, with the files of the layout that each changed."""
    listing = clone.local(
        "log", "-z", "--topo-order", "--reverse", "--format=%H%x00%P%x00%an <%ae>", tip, f"^{since}", "--"
    ).output
    fields = listing.decode("utf-8", "replace").split("\0")
    rows = [fields[n : n + 3] for n in range(0, len(fields) - 2, 3)]
    if len(rows) > CHANGES_LIMIT:
        raise Stalled(
            f"{len(rows):,} commits since {since[:12]} would have to be verified, {CHANGES_LIMIT:,} are at most: "
            "set SLUICE_TRUSTED_COMMIT to a later commit that you trust"
        )
    parents = {commit: tuple(line.split()) for commit, line, _ in rows}
    differences = _differences(clone, parents)
    return tuple(_change(clone, commit, author, parents[commit], differences) for commit, _, author in rows)


def _change(
    clone: Clone,
    commit: str,
    author: str,
    parents: tuple[str, ...],
    differences: Mapping[tuple[str, str], _Blobs],
) -> Change:
    against = [differences.get((commit, parent), {}) for parent in parents or ("",)]
    if len(parents) <= 1:
        return Change(commit=commit, author=author, parents=parents, paths=frozenset(against[0]))
    touched = frozenset().union(*against)
    if not touched or len(parents) > 2:  # noqa: PLR2004 - nobody merges three branches of a config repo by hand
        return Change(commit=commit, author=author, parents=parents, paths=touched)
    own, taken = _merged(clone, parents, against[0], against[1], touched)
    return Change(commit=commit, author=author, parents=parents, paths=own, taken=dict.fromkeys(taken, parents[1]))


def _merged(
    clone: Clone, parents: tuple[str, ...], first: _Blobs, second: _Blobs, touched: frozenset[str]
) -> tuple[frozenset[str], frozenset[str]]:
    """Of a merge of two: files that it changes itself, and files that it plainly takes from the second parent.

    Plain is what only one side changed since they parted, as that side has it.
    """
    bases = clone.local("merge-base", "--all", *parents, accepted=(0, 1)).text.split()
    if len(bases) != 1:
        return touched, frozenset()
    at_base = {e.path.decode("utf-8", "backslashreplace"): e.blob for e in clone.entries(bases[0])}
    own, taken = set(), set()
    for path in touched:
        base = at_base.get(path, _NOTHING)
        if path in first and path not in second and first[path][0] == base:
            taken.add(path)
        elif not (path in second and path not in first and second[path][0] == base):
            own.add(path)
    return frozenset(own), frozenset(taken)


_NOTHING: Final = "0" * 40


def _differences(clone: Clone, parents: Mapping[str, tuple[str, ...]]) -> dict[tuple[str, str], _Blobs]:
    """By commit and parent (empty for a first commit), the files that differ, each with its blob before and after."""
    pairs = [(commit, parent) for commit, each in parents.items() for parent in each or ("",)]
    asked = "".join(f"{commit} {parent}".rstrip() + "\n" for commit, parent in pairs).encode()
    command = ("diff-tree", "--stdin", "-r", "-z", "--root", "--always", "--no-renames", "--no-abbrev", "--", *ROOTS)
    output = clone.local(*command, stdin=asked).output
    return dict(zip(pairs, _sections(output), strict=True))


def _sections(output: bytes) -> Iterator[_Blobs]:
    """Take `git diff-tree --stdin -z` apart: a commit's line, then `:modes blobs letter<NUL>path<NUL>` each."""
    found: _Blobs | None = None
    tokens = iter(output.split(b"\0"))
    for token in tokens:
        if token.startswith(b":") and found is not None:
            _, _, before, after, _ = token.decode("ascii").split(" ")
            found[next(tokens).decode("utf-8", "backslashreplace")] = (before, after)
        elif token:
            if found is not None:
                yield found
            found = {}
    if found is not None:
        yield found
