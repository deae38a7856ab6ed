package controlcmd

import (
	"testing"

	"github.com/spf13/pflag"
)

// A server whose URL is for this machine alone is open to nobody else, unless that is asked for.
func TestControlListens(t *testing.T) {
	for _, test := range []struct {
		args         []string
		listen, stun string
	}{
		{[]string{"--url", "http://127.0.0.1:81"}, "127.0.0.1:81", "127.0.0.1:3478"},
		{[]string{"--url", "http://127.8.0.1"}, "127.8.0.1:80", "127.8.0.1:3478"},
		{[]string{"--url", "http://[::1]:81"}, "[::1]:81", "[::1]:3478"},
		{[]string{"--url", "http://[::ffff:127.0.0.1]:81"}, "[::ffff:127.0.0.1]:81", "[::ffff:127.0.0.1]:3478"},
		{[]string{"--url", "http://LocalHost:81"}, "localhost:81", "localhost:3478"},
		{[]string{"--url", "https://localhost"}, "localhost:443", "localhost:3478"},
		{[]string{"--url", "https://localhost", "--plain"}, "127.0.0.1:8080", "localhost:3478"},
		{[]string{"--url", "http://127.0.0.1:81", "--listen", ":81", "--stun", ":99"}, ":81", ":99"},
		{[]string{"--url", "http://192.168.1.2:81"}, ":81", ":3478"},
		{[]string{"--url", "https://control.example.com"}, ":443", ":3478"},
		{[]string{"--url", "https://control.example.com", "--plain"}, "127.0.0.1:8080", ":3478"},
	} {
		o, fs := newServeOptions(), pflag.NewFlagSet("serve", pflag.ContinueOnError)
		o.addFlags(fs)
		if err := fs.Parse(test.args); err != nil {
			t.Fatal(err)
		}
		if err := o.check(); err != nil || o.Listen != test.listen || o.STUN != test.stun {
			t.Errorf("%v: listens on %s, STUN on %s, %v; want %s and %s", test.args, o.Listen, o.STUN, err, test.listen,
				test.stun)
		}
	}
}
