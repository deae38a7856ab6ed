// Command ginnel is a way into a private mesh that needs no rights: a node with a local SOCKS5 and
// HTTP proxy, and the relay, in one program.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"ginnel/internal/cli"
	"ginnel/internal/cli/controlcmd"
	"ginnel/internal/cli/democmd"
	"ginnel/internal/cli/nodecmd"
	"ginnel/internal/cli/relaycmd"
)

// version is set by the linker in releases.
var version string

func main() { os.Exit(cli.Main(version, commands)) }

// commands are those of the program, in the order of its help.
func commands(p cli.Program) []*cobra.Command {
	return []*cobra.Command{
		nodecmd.NewUp(p), nodecmd.NewDown(p), nodecmd.NewRun(p), nodecmd.NewStatus(p), nodecmd.NewPing(p), nodecmd.NewWait(p),
		nodecmd.NewWhy(p), nodecmd.NewNC(p), nodecmd.NewLogout(p), nodecmd.NewNetcheck(p),
		relaycmd.New(p), controlcmd.New(p), democmd.New(p),
	}
}
