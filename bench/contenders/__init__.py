"""The contenders: each knows how to start itself on a site, and what its processes are."""
