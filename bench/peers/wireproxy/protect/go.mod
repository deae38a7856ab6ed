// This module replaces the module of the same name that wireproxy requires and that is no longer
// available. Its functions do nothing, which is also what the original does on all systems except
// OpenBSD.
module suah.dev/protect

go 1.26.6
