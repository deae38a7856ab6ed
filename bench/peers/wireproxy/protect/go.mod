// This module stands in for the one of the same name that wireproxy wants, which cannot be had any more. What that does is
// for OpenBSD alone: elsewhere its functions do nothing, as these do.
module suah.dev/protect

go 1.26.6
