package main

import (
	"os"
	"path/filepath"
	"testing"

	"ginnel/internal/cli"
)

// What may be repeated is a list in the environment and in a file too, whichever command it is for.
func TestListSettings(t *testing.T) {
	for _, test := range []struct {
		command    []string
		flag, want string
		values     []string
	}{
		{[]string{"up"}, "tags", "[tag:a,tag:b]", []string{"tag:a", "tag:b"}},
		{[]string{"run"}, "tags", "[tag:a,tag:b]", []string{"tag:a", "tag:b"}},
		{[]string{"up"}, "advertise-routes", "[10.1.0.0/16,10.2.0.0/16]", []string{"10.1.0.0/16", "10.2.0.0/16"}},
		{[]string{"run"}, "advertise-routes", "[10.1.0.0/16,10.2.0.0/16]", []string{"10.1.0.0/16", "10.2.0.0/16"}},
		{[]string{"control", "keys", "create"}, "tags", "[tag:a,tag:b]", []string{"tag:a", "tag:b"}},
		{[]string{"up"}, "wait-for", "a:1,b:2", []string{"a:1", "b:2"}},
		{[]string{"relay", "serve"}, "hostname", "[a.example,b.example]", []string{"a.example", "b.example"}},
	} {
		one, other := test.values[0], test.values[1]
		for _, way := range []struct{ env, file string }{
			{env: one + "," + other},
			{env: " " + one + ", " + other + " "},
			{env: one + "\n" + other},
			{file: test.flag + ": [" + quoted(one) + ", " + quoted(other) + "]\n"},
			{file: test.flag + ":\n  - " + one + "\n  - " + other + "\n"},
		} {
			p := cli.Program{Getenv: func(name string) string {
				if name == cli.EnvName(test.flag) {
					return way.env
				}
				return ""
			}}
			cmd, _, err := cli.NewRoot(p, commands(p)...).Find(test.command)
			if err != nil {
				t.Fatal(err)
			}
			if way.file != "" {
				path := filepath.Join(t.TempDir(), "ginnel.yaml")
				if err := os.WriteFile(path, []byte(way.file), 0o600); err != nil {
					t.Fatal(err)
				}
				if cmd.Flags().Lookup("config") == nil {
					continue // of those that join or serve nothing, some read no file
				}
				cmd.Flags().Set("config", path)
			}
			err = cli.ApplySettings(cmd, p)
			if got := cmd.Flags().Lookup(test.flag).Value.String(); err != nil || got != test.want {
				t.Errorf("%v: %s from %+v is %s, want %s: %v", test.command, test.flag, way, got, test.want, err)
			}
		}
	}
}

func quoted(s string) string { return `"` + s + `"` }
