package cli

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flagHints maps flags of tailscale to the flags of this program.
var flagHints = map[string]string{
	"login-server":               "--control",
	"auth-key":                   "--authkey",
	"authkey-file":               "--authkey file:PATH",
	"advertise-tags":             "--tags",
	"statedir":                   "--state",
	"socks5-server":              "--proxy",
	"outbound-http-proxy-listen": "--proxy",
	"port":                       "--udp-port",
}

// commandHints maps commands of tailscale and headscale to the commands of this program.
var commandHints = map[string]string{
	"preauthkeys":    "ginnel control keys",
	"preauthkey":     "ginnel control keys",
	"authkeys":       "ginnel control keys",
	"apikeys":        "ginnel control tokens",
	"routes":         "ginnel control nodes routes",
	"list-routes":    "ginnel control nodes routes list",
	"approve-routes": "ginnel control nodes routes approve NODE",
	"register":       "ginnel control nodes approve LOGIN --user USER",
	"machines":       "ginnel control nodes",
	"login":          "ginnel up",
	"ip":             "ginnel status",
	"configtest":     "ginnel control policy check",
}

// deleteWords are the names that other programs have for the subcommand delete.
var deleteWords = []string{"destroy", "remove", "rm"}

// maxTypos is the largest edit distance between a word and a suggestion.
const maxTypos = 2

// unknownFlagHint suggests a flag for one that does not exist. It is empty if there is no
// suggestion.
func unknownFlagHint(cmd *cobra.Command, err error) string {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return ""
	}
	name := unknown.GetSpecifiedName()
	if instead, known := flagHints[name]; known {
		return "; here it is " + instead
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if best := nearest(name, names); best != "" {
		return "; --" + best + " is meant?"
	}
	return ""
}

// nearest returns the known word with the smallest edit distance to word, or nothing if all differ
// by more than maxTypos.
func nearest(word string, known []string) (best string) {
	least := maxTypos + 1
	for _, k := range known {
		if d := editDistance(word, k); d < least && d < len(word) {
			best, least = k, d
		}
	}
	return best
}

// unknownCommandHint suggests a command for one that does not exist: a similar one, or the one that
// does what a command of another program does.
func unknownCommandHint(cmd *cobra.Command, word string) string {
	if instead, known := commandHints[word]; known {
		return "; here it is '" + instead + "'"
	}
	paths := make(map[string]string)
	for _, sub := range cmd.Commands() {
		paths[sub.Name()] = sub.CommandPath()
	}
	if own := paths["delete"]; own != "" && slices.Contains(deleteWords, word) {
		return "; here it is '" + own + "'"
	}
	if best := nearest(word, slices.Sorted(maps.Keys(paths))); best != "" {
		return "; '" + paths[best] + "' is meant?"
	}
	if best := nearest(word, slices.Sorted(maps.Keys(commandHints))); best != "" {
		return "; '" + commandHints[best] + "' is meant?"
	}
	return ""
}

// editDistance is the number of letters to insert, delete or replace between two words
// (Levenshtein).
func editDistance(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			changed := before
			if a[i] != b[j] {
				changed++
			}
			before = row[j+1]
			row[j+1] = min(changed, before+1, row[j]+1)
		}
	}
	return row[len(b)]
}
