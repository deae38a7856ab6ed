package cli

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
)

// Program is the process around a command: its arguments, standard streams and environment.
type Program struct {
	Args           []string // os.Args, with the name of the program
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Environ        func() []string
	Reaper         *Reaper // nil where no orphans come to this process
	version        string  // set by the linker in releases; empty in other builds
}

// nobodyReads reports whether err is the failure to write to a standard output that its reader has
// closed.
func (p Program) nobodyReads(err error) bool {
	e, ok := errors.AsType[*fs.PathError](err)
	out, isFile := p.Stdout.(*os.File)
	return ok && isFile && e.Path == out.Name() && errors.Is(e, syscall.EPIPE)
}

// BuildVersion returns the version that the linker has set, or else the revision that the binary
// was built from.
func (p Program) BuildVersion() string {
	if p.version != "" {
		return p.version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel " + s.Value[:12]
		}
	}
	return "devel"
}

// Main runs the program and returns its exit status. SIGINT, SIGTERM and SIGHUP, which a closing
// terminal sends, end the context of the command; a second signal kills the process. A signal that
// was ignored at the start, by nohup or in the background of a shell, stays ignored. SIGPIPE is
// ignored, so that writing to a closed pipe is an error instead.
func Main(version string, commands func(Program) []*cobra.Command) int {
	signal.Ignore(syscall.SIGPIPE)
	ends := slices.DeleteFunc([]os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}, signal.Ignored)
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	r := startReaper()
	defer r.close()
	p := Program{Args: os.Args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, Environ: os.Environ, Reaper: r, version: version}
	return Run(ctx, p, NewRoot(p, commands(p)...), os.Args[1:])
}
