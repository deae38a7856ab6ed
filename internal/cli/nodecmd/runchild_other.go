//go:build !unix

package nodecmd

import "os"

// endSignal ends a process; this system has no gentler way.
var endSignal = os.Kill

// passedSignals are caught, so that they end the command alone: the console sends them to it as
// well.
func passedSignals() []os.Signal { return []os.Signal{os.Interrupt} }

func sentByTerminal(s os.Signal) bool { return s == os.Interrupt }

func restorePipeSignal() {}
