"""A forge for tests: real Git repos behind `git http-backend`, and what GitHub, Gitea and GitLab say over HTTP.

`hub.py` keeps what a forge keeps besides Git; each dialect answers as that forge's API documents say, in the shapes
that our door reads, and as strictly: an unknown token, a missing field, a wrong path are errors here, too.
"""
