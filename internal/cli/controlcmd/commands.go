package controlcmd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"ginnel/internal/cli"
)

// adminCall is one call of a command that administers a server.
type adminCall struct {
	*admin
	args []string
	out  io.Writer
	json bool
}

// adminCommand adds the flags that find the server to cmd, and has cmd call run with the server.
func adminCommand(p cli.Program, cmd *cobra.Command, run func(ctx context.Context, c *adminCall) error) *cobra.Command {
	where := new(adminFlags)
	where.add(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		a, err := where.open(p)
		if err != nil {
			return err
		}
		return run(cmd.Context(), &adminCall{admin: a, args: args, out: p.Stdout, json: where.asJSON})
	}
	return cmd
}

// wantArgs checks that there is one argument for each name, and any number for a last name that
// ends with dots. Empty arguments are refused, which usually are unset variables in a script,
// except for names in [brackets].
func wantArgs(names ...string) cobra.PositionalArgs {
	last := names[len(names)-1]
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return cli.Usagef("%s: %s is missing", cmd.CommandPath(), strings.Trim(names[len(args)], ".[]"))
		}
		if len(args) > len(names) && !strings.HasSuffix(last, "...") {
			return cli.Usagef("%s: unexpected argument %q", cmd.CommandPath(), args[len(names)])
		}
		for i, arg := range args {
			if name := names[min(i, len(names)-1)]; arg == "" && !strings.HasPrefix(name, "[") {
				return cli.Usagef("%s: argument %d is empty", cmd.CommandPath(), i+1)
			}
		}
		return nil
	}
}

// numberArg reads the ID of an object. what names the object in the error.
func numberArg(what, arg string) (int64, error) {
	n, err := strconv.ParseInt(arg, 10, 64)
	if err != nil || n <= 0 {
		return 0, cli.Usagef("%s %q is not a number", what, arg)
	}
	return n, nil
}

// show prints a document: as JSON with --json, and otherwise by human.
func (c *adminCall) show(doc any, human func(io.Writer) error) error {
	if c.json {
		return json.NewEncoder(c.out).Encode(doc)
	}
	return human(c.out)
}

// say prints a sentence, or with --json the server's answer.
func (c *adminCall) say(doc any, format string, args ...any) error {
	return c.show(doc, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, format+"\n", args...)
		return err
	})
}

// said is the JSON output of a command that leaves no object to show.
type said struct {
	Done string `json:"done"`
}

// done prints a sentence about an object that has been deleted.
func (c *adminCall) done(format string, args ...any) error {
	return c.say(said{fmt.Sprintf(format, args...)}, format, args...)
}

// table prints rows in columns.
func (c *adminCall) table(doc any, head string, rows [][]string) error {
	return c.show(doc, func(w io.Writer) error {
		t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		fmt.Fprintln(t, strings.ReplaceAll(head, " ", "\t"))
		for _, row := range rows {
			fmt.Fprintln(t, strings.Join(row, "\t"))
		}
		return t.Flush()
	})
}

// day formats a time to the minute. It returns never for the zero time.
func day(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format("2006-01-02 15:04")
}

// dash returns a dash for an empty cell.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// after returns the time when d from now has passed, or the zero time for 0.
func after(d time.Duration) time.Time {
	if d == 0 {
		return time.Time{}
	}
	return time.Now().Add(d).Round(time.Second)
}
